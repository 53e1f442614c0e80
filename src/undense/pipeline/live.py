"""The live view of a training run: TensorBoard and `metrics.jsonl`, by a callback or by hand.

    live = Live(model, "runs/mine")     # in a loop of one's own: live.step(step) after each step
    Trainer(…, callbacks=[LiveCallback("runs/mine")])

The same tags for dense and for replaced FFNs, so that two runs stand on one chart.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from undense.contract import DenseShape, abstract_cost
from undense.convert.configs import recorded, recording
from undense.convert.families import family
from undense.convert.sites import base_key, find_components, find_sites
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ffn.shares import dense_config
from undense.measure.live import ABOUT, Block, Meter, every_tag, kept
from undense.measure.whole_model import empty
from undense.models.spectral import SpectralForCausalLM

EVERY = 10


@final
class Live:
    """Writes a reading of `model` into `folder` every `every` steps.

    Raises `UndenseError` for a model of a family that is not known or without an FFN.
    """

    def __init__(self, model: PreTrainedModel, folder: str | Path, *, every: int = EVERY) -> None:
        if every < 1:
            raise UndenseError(f"live: every={every} must be at least 1")
        self.every = every
        self.blocks = blocks_of(model)
        self.meter = Meter(self.blocks)
        self.last: int | None = None
        place = Path(folder)
        self.writer = SummaryWriter(log_dir=str(place))
        self.writer.add_text("about", ABOUT)
        self.lines = (place / "metrics.jsonl").open("a", encoding="utf-8")

    def step(self, step: int) -> None:
        """After optimizer step number `step` (1, 2, …; a continued run goes on counting)."""
        if self.last is None:
            self.last = step - 1
        if step - self.last >= self.every:
            self.write(step)

    def write(self, step: int) -> None:
        """A reading now, whatever the interval."""
        reading = self.meter.take(step - (self.last or 0))
        self.last = step
        scalars = dict(every_tag(self.blocks, reading))
        for tag, value in scalars.items():
            self.writer.add_scalar(tag, value, step)
        chosen = {tag: value for block in self.blocks for tag, value in kept(block).items()}
        for tag, values in chosen.items():
            # TensorBoard's own bins grow with the number: wrong for indices, which are all alike.
            self.writer.add_histogram(tag, values.cpu(), step, bins=index_bins(values))  # type: ignore[arg-type]
        others = {tag: v for tag, v in scalars.items() if not tag.startswith("FLOPs/")}
        line = {"step": step, **reading.to_dict(), "scalars": others}
        self.lines.write(json.dumps(line) + "\n")
        self.lines.flush()

    def close(self) -> None:
        """Take the hooks off and close the files. Steps since the last reading are not written."""
        self.meter.close()
        self.writer.close()
        self.lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@final
class LiveCallback(TrainerCallback):
    """`Live` for Hugging Face's Trainer."""

    def __init__(self, folder: str | Path, *, every: int = EVERY) -> None:
        self.folder = folder
        self.every = every
        self.live: Live | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.live is not None:  # the run before went back after it had diverged
            self.live.close()
        if state.is_world_process_zero:
            self.live = Live(kwargs["model"], self.folder, every=self.every)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.live is not None:
            self.live.step(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.live is not None:
            self.live.close()
            self.live = None


def blocks_of(model: PreTrainedModel) -> list[Block]:
    """Every FFN of `model`, dense or replaced, in the order of the layers; a decoder's layers are
    numbered on from those of its encoder."""
    if isinstance(model, SpectralForCausalLM):
        dense = _dense(model.config.ffn_shape)
        found = find_components(model).values()
        return [
            Block(layer=layer, module=ffn, cost=ffn.cost, dense=dense)
            for layer, ffn in enumerate(found)
        ]
    kind = family(model.config.model_type)
    shapes = {site.key: site.shape for site in find_sites(_dense_twin(model.config))}
    before = 1 + max((kind.layer(k) or 0 for k in shapes if kind.tower(k) == "encoder"), default=-1)

    def number(key: str, layer: int) -> int:
        return layer + (before if kind.tower(key) == "decoder" else 0)

    blocks = []
    for site in find_sites(model):
        dense = _dense(site.shape)
        place = number(site.key, site.layer)
        # what receives the input: of an FFN that is several modules, no other one is called
        blocks.append(Block(layer=place, module=site.entry, cost=dense, dense=dense))
    for name, component in find_components(model).items():
        key = base_key(model, name)
        layer = kind.layer(key)
        if layer is not None:
            dense, place = _dense(shapes[key]), number(key, layer)
            block = Block(layer=place, module=component, cost=component.cost, dense=dense)
            blocks.append(block)
    if not blocks:
        raise UndenseError(f"live: {type(model).__name__} has no FFN whose FLOPs could be told")
    return sorted(blocks, key=lambda block: block.layer)


def index_bins(values: Tensor) -> list[float]:
    """Edges of at most 64 equal bins around whole numbers from 0 to the largest."""
    largest = int(values.max())
    count = min(largest + 1, 64)
    return [-0.5 + (largest + 1) * edge / count for edge in range(count + 1)]


def _dense_twin(config: PreTrainedConfig) -> Any:
    """The dense model of a config, without memory."""
    return empty(recording(config, {}) if recorded(config) else config)


def _dense(shape: DenseShape) -> Callable[[int], Cost]:
    def cost(tokens: int) -> Cost:
        return abstract_cost(shape.dim, dense_config(shape), tokens)

    return cost
