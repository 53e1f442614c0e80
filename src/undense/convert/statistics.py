"""What each dense FFN sees: one forward pass over calibration text, a sample of rows kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from undense.contract import Statistics
from undense.convert.batches import Batch, checked
from undense.convert.sites import Site
from undense.errors import UndenseError

# Below this, the closed-form fits have nothing to go by.
FEWEST_ROWS = 64


def collect(
    model: PreTrainedModel,
    sites: Sequence[Site],
    batches: Iterable[Batch] | Batch,
    *,
    rows: int = 8192,
    seed: int = 0,
) -> dict[str, Statistics]:
    """The inputs of each site on the same `rows` token positions, drawn evenly from all batches.

    Padding (attention mask 0) is never drawn. Returns a sample (at most `rows`, dim) by site name,
    fp32 on the CPU. Raises `UndenseError` for too few tokens and for inputs that are not finite.
    """
    prepared = checked(model, batches)
    picked = _positions([batch["attention_mask"] for batch in prepared], rows, seed)
    samplers = {site.name: _Sampler() for site in sites}
    handles = [site.module.register_forward_pre_hook(samplers[site.name]) for site in sites]
    progress = tqdm(prepared, desc="calibration", leave=False, disable=None)
    try:
        with evaluating(model), torch.no_grad():
            for batch, positions in zip(progress, picked, strict=True):
                for sampler in samplers.values():
                    sampler.positions = positions
                model.base_model(**_on(model.device, batch), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return {name: _statistics(name, sampler.seen) for name, sampler in samplers.items()}


@final
class _Sampler:
    """A forward hook that keeps the rows of a module's input at the current `positions`."""

    def __init__(self) -> None:
        self.positions = torch.empty(0, dtype=torch.long)
        self.seen: list[Tensor] = []

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        rows = args[0].detach().flatten(0, -2)
        self.seen.append(rows[self.positions.to(rows.device)].to("cpu", torch.float32))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off for a while, each module's own mode put back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _positions(masks: Sequence[Tensor], rows: int, seed: int) -> list[Tensor]:
    """For each batch, the flat positions that are kept: `rows` of all unpadded ones, in order."""
    real = [mask.flatten().nonzero().flatten() for mask in masks]
    total = sum(len(positions) for positions in real)
    if total < FEWEST_ROWS:
        raise UndenseError(
            f"calibration holds {total} tokens; give at least {FEWEST_ROWS}, better thousands"
        )
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(total, generator=generator)[:rows].sort().values
    ends = torch.tensor([0] + [len(positions) for positions in real]).cumsum(0)
    return [
        positions[drawn[(drawn >= first) & (drawn < last)] - first]
        for positions, first, last in zip(real, ends[:-1], ends[1:], strict=True)
    ]


def _on(device: torch.device, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _statistics(name: str, parts: list[Tensor]) -> Statistics:
    inputs = torch.cat(parts)
    if not torch.isfinite(inputs).all():
        raise UndenseError(
            f"{name}: its inputs on the calibration text are NaN or infinite; check the weights of"
            " the blocks before it"
        )
    return Statistics(inputs=inputs)
