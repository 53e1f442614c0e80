"""Which weights a fine-tuning moves, and from which step on.

The original proposal names three ways: all weights; the sparse FFNs with LoRA adapters in the
attention; and stepwise, "Stage 1: Freeze pretrained weights, train only sparse FFN. Stage 2:
Unfreeze partial attention + LayerNorm".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from undense.contract import FFNComponent
from undense.errors import UndenseError
from undense.train.lora import add_lora_, attention_modules, ffn_parameters
from undense.train.settings import FinetuneSettings


@dataclass(frozen=True, kw_only=True)
class Portion:
    """`stages`: (first step, the parameters that move from there on); the last one moves all that
    ever moves. `ours`: the parameters of the replaced FFNs."""

    stages: list[tuple[int, list[nn.Parameter]]]
    ours: set[nn.Parameter]

    @property
    def moving(self) -> list[nn.Parameter]:
        """Every parameter that moves in any stage."""
        return self.stages[-1][1]

    def enter(self, step: int) -> None:
        """Freeze what does not move at `step`, and only that."""
        now = [parameters for first, parameters in self.stages if step >= first][-1]
        chosen = set(now)
        for parameter in self.moving:
            parameter.requires_grad_(parameter in chosen)


@contextmanager
def portion(model: PreTrainedModel, settings: FinetuneSettings) -> Iterator[Portion]:
    """The weights that `settings.train` means, everything else frozen while the block runs.

    "lora" gives `model` its adapters and merges them into the weights at the end. Raises
    `UndenseError` where no replaced FFN has a parameter, but for "all" and "lora".
    """
    ours = [p for p in ffn_parameters(model) if p.requires_grad]
    if settings.train in ("ffn", "stepwise") and not ours:
        raise UndenseError(
            f"finetune: train={settings.train!r} but no replaced FFN has a parameter; convert the"
            " model first, or use train='all'"
        )
    before = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adapted = None
    if settings.train == "lora":
        with torch.random.fork_rng(devices=[]):  # its random start is part of what the seed decides
            torch.manual_seed(settings.seed)
            adapted = add_lora_(model, rank=settings.lora_rank)
    try:
        yield _chosen(model, settings, ours)
    finally:
        if adapted is not None:
            adapted.merge_and_unload()
        for parameter in before:
            parameter.requires_grad_(True)


def _chosen(
    model: PreTrainedModel, settings: FinetuneSettings, ours: list[nn.Parameter]
) -> Portion:
    everything = [parameter for parameter in model.parameters() if parameter.requires_grad]
    stages = [(0, everything)]
    if settings.train in ("ffn", "stepwise"):
        stages = [(0, ours)]
    if settings.train == "stepwise":
        second = max(1, round(settings.first_stage * settings.steps))
        around = [p for module in _around(model) for p in module.parameters()]
        also = [parameter for parameter in dict.fromkeys(around) if parameter.requires_grad]
        stages.append((second, list(dict.fromkeys([*ours, *also]))))
    moving = set(stages[-1][1])
    for parameter in everything:
        parameter.requires_grad_(parameter in moving)
    return Portion(stages=stages, ours=set(ours))


def _around(model: nn.Module) -> list[nn.Module]:
    """The attention and the norms of the host, by transformers' naming of classes."""
    inside = {m for c in model.modules() if isinstance(c, FFNComponent) for m in c.modules()}
    norms = [m for m in model.modules() if "Norm" in type(m).__name__ and m not in inside]
    return [*attention_modules(model).values(), *norms]


@final
class Stages(TrainerCallback):
    """Moves on to the stage of the step that begins, after an interruption too."""

    def __init__(self, chosen: Portion) -> None:
        self.chosen = chosen

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.chosen.enter(state.global_step)
