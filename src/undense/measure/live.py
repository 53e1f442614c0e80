"""Counting a training run while it runs: what every FFN block computed since the last reading.

A hook on each block notes how many rows passed it; nothing else happens in a step. A reading turns
the notes into exact FLOPs by the block's own formula. Tags are frozen by a test; TensorBoard keeps
float32, so scalars there are GFLOPs, and exact integers go to `metrics.jsonl`.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from undense.contract import FFNComponent
from undense.cost import Cost
from undense.measure.peak import peak_megabytes
from undense.ops.soft_top_k import LearnedSelection

STAGES = ("spectral", "polynomial", "micro", "projection")
TAG = re.compile(
    r"FLOPs/(block_\d+_(spectral|polynomial|micro|projection|total|dense)"
    r"|total|dense_equivalent|saving)"
    r"|gates/block_\d+_\w+|kept/block_\d+_\w+|speed/tokens_per_s|memory/peak_mb"
)
ABOUT = """
| tags | what they are |
|---|---|
| `FLOPs/block_N_total` | GFLOPs of block N's FFN in one optimizer step, forward and backward |
| `FLOPs/block_N_spectral`, `_polynomial`, `_micro`, `_projection` | the stages of a composition |
| `FLOPs/block_N_dense`, `FLOPs/dense_equivalent` | what dense FFNs would have taken |
| `FLOPs/total`, `FLOPs/saving` | all FFNs; the share of the dense FLOPs saved (0 to 1) |
| `gates/…`, `kept/…` | gates of the stages; which frequencies, terms and features are computed |
| `speed/tokens_per_s`, `memory/peak_mb` | tokens learned from a second; most memory so far |

Exact integers are in `metrics.jsonl`: TensorBoard keeps 32-bit floats.
"""
# Buffers of indices that are no choice but a layout.
_LAYOUT = {"partner"}


@dataclass(frozen=True, kw_only=True)
class Block:
    """One FFN of a model. `cost`: of what stands there, `dense`: of the dense FFN of that place."""

    layer: int
    module: nn.Module
    cost: Callable[[int], Cost]
    dense: Callable[[int], Cost]


@dataclass(frozen=True, kw_only=True)
class Work:
    """FLOPs of one block since the last reading, forward and backward in one; `dense`: what the
    dense FFN would have taken for the same calls; `stages`: of a composition, stage by stage."""

    total: int
    dense: int
    stages: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What happened in `steps` steps: FLOPs by layer, tokens that were learned from, seconds."""

    steps: int
    tokens: int
    seconds: float
    blocks: dict[int, Work]

    @property
    def total(self) -> int:
        """FLOPs of all blocks."""
        return sum(work.total for work in self.blocks.values())

    @property
    def dense(self) -> int:
        """FLOPs that dense FFNs would have taken."""
        return sum(work.dense for work in self.blocks.values())

    def scalars(self) -> dict[str, float]:
        """By tag: GFLOPs of one optimizer step; the share saved; tokens a second."""
        scale = 1e-9 / self.steps
        values: dict[str, float] = {}
        for layer, work in self.blocks.items():
            for stage, flops in work.stages.items():
                values[f"FLOPs/block_{layer}_{stage}"] = scale * flops
            values[f"FLOPs/block_{layer}_total"] = scale * work.total
            values[f"FLOPs/block_{layer}_dense"] = scale * work.dense
        values["FLOPs/total"] = scale * self.total
        values["FLOPs/dense_equivalent"] = scale * self.dense
        values["FLOPs/saving"] = 1 - self.total / self.dense if self.dense else 0.0
        values["speed/tokens_per_s"] = self.tokens / self.seconds if self.seconds else 0.0
        return values

    def to_dict(self) -> dict[str, Any]:
        """The exact integers, of all steps together."""
        return {
            "steps": self.steps,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "flops": self.total,
            "dense_equivalent": self.dense,
            "blocks": {
                str(layer): {"total": w.total, "dense_equivalent": w.dense, **w.stages}
                for layer, w in self.blocks.items()
            },
        }


@dataclass(frozen=True)
class _Calls:
    """Calls of one block: how often with so many rows, with gradients or without."""

    seen: Counter[tuple[int, bool]] = field(default_factory=Counter)


class Meter:
    """Hooks on blocks, taken off by `close`. Calls in evaluation mode without gradients, which are
    no training, are not counted; a forward that a checkpoint repeats is, as it is computed."""

    def __init__(
        self, blocks: Sequence[Block], *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.blocks = {block.layer: block for block in blocks}
        self._calls = {layer: _Calls() for layer in self.blocks}
        self._known: dict[tuple[int, int], tuple[Cost, Cost]] = {}
        self._clock = clock
        self._since = clock()
        self._handles = [
            block.module.register_forward_pre_hook(self._note(self._calls[block.layer]))
            for block in blocks
        ]

    def take(self, steps: int) -> Reading:
        """What happened since the last reading, `steps` optimizer steps; begins the next one."""
        now = self._clock()
        works = {layer: self._work(layer, calls) for layer, calls in self._calls.items()}
        first = next(iter(self._calls.values()), _Calls()).seen
        learned = sum(rows * count for (rows, grads), count in first.items() if grads)
        reading = Reading(steps=steps, tokens=learned, seconds=now - self._since, blocks=works)
        for calls in self._calls.values():
            calls.seen.clear()
        self._since = now
        return reading

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    @staticmethod
    def _note(calls: _Calls) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        seen = calls.seen

        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            grads = torch.is_grad_enabled()
            if grads or module.training:
                x = arguments[0]
                seen[x.numel() // x.shape[-1], grads] += 1

        return hook

    def _work(self, layer: int, calls: _Calls) -> Work:
        total, dense = (0, 0)
        stages: dict[str, int] = {}
        for (rows, grads), count in calls.seen.items():
            own, other = self._costs(layer, rows)
            total += count * _flops(own, grads)
            dense += count * _flops(other, grads)
            for part in own.parts:
                if part.name in STAGES:
                    stages[part.name] = stages.get(part.name, 0) + count * _flops(part, grads)
        return Work(total=total, dense=dense, stages=stages)

    def _costs(self, layer: int, rows: int) -> tuple[Cost, Cost]:
        if (layer, rows) not in self._known:
            block = self.blocks[layer]
            self._known[layer, rows] = (block.cost(rows), block.dense(rows))
        return self._known[layer, rows]


def _flops(cost: Cost, grads: bool) -> int:
    return cost.forward + cost.backward if grads else cost.forward


def gates(block: Block) -> dict[str, float]:
    """The gates of a composition's stages, by tag."""
    held = getattr(block.module, "gates", None)
    if not isinstance(held, nn.ParameterDict):
        return {}
    return {f"gates/block_{block.layer}_{stage}": value.item() for stage, value in held.items()}


def kept(block: Block) -> dict[str, Tensor]:
    """What a component chose to compute: its index buffers (frequencies, channels of terms,
    selected features …) and what its learned selections keep now, by tag, as integers."""
    found: dict[str, Tensor] = {}
    for path, module in block.module.named_modules():
        if not isinstance(module, FFNComponent):
            continue
        place = path.removeprefix("stages.").replace(".", "_") or module.component
        choices = {n: v for n, v in module.named_buffers(recurse=False) if _is_choice(n, v)}
        for name, part in module.named_children():
            if isinstance(part, LearnedSelection):
                choices[name] = part.kept()
        for name, values in choices.items():
            found[f"kept/block_{block.layer}_{place}_{name}"] = values.flatten()
    return found


def _is_choice(name: str, values: Tensor) -> bool:
    integers = not values.is_floating_point() and not values.is_complex()
    return integers and values.dim() > 0 and values.dtype != torch.bool and name not in _LAYOUT


def every_tag(blocks: Sequence[Block], reading: Reading) -> Iterator[tuple[str, float]]:
    """All scalars of a reading: FLOPs, gates, how much is kept, speed, memory."""
    yield from reading.scalars().items()
    for block in blocks:
        yield from gates(block).items()
        for tag, values in kept(block).items():
            yield f"{tag}_count", float(values.numel())
    yield "memory/peak_mb", peak_megabytes()
