"""What each dense FFN sees: one forward pass over calibration text, a sample of rows kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from undense.contract import Statistics
from undense.convert.batches import MASKS, Batch, arguments, checked
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
    """The inputs of each site at the same `rows` tokens (of the encoder, of the decoder), drawn
    evenly from all batches.

    Padding (attention mask 0) is never drawn; a vision model's tokens are its patches. Returns a
    sample (at most `rows`, dim) by site name, fp32 on the CPU. Raises `UndenseError` for too few
    tokens and for inputs that are not finite.
    """
    prepared = checked(model, batches)
    samplers = {site.name: _Sampler(site.name) for site in sites}
    handles = [site.entry.register_forward_pre_hook(samplers[site.name]) for site in sites]
    progress = tqdm(prepared, desc="calibration", leave=False, disable=None)
    try:
        with evaluating(model), torch.no_grad():
            masks = {
                tower: [_mask(model, sites[0], batch, tower) for batch in prepared]
                for tower in {site.tower for site in sites}
            }
            picked = {tower: _positions(listed, rows, seed) for tower, listed in masks.items()}
            for index, batch in enumerate(progress):
                for site in sites:
                    sampler = samplers[site.name]
                    sampler.positions = picked[site.tower][index]
                    sampler.tokens = masks[site.tower][index].numel()
                _run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: _statistics(name, sampler.seen) for name, sampler in samplers.items()}


def _run(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> None:
    """The base model on a batch, keeping no cache."""
    inputs: dict[str, Any] = {name: tensor.to(model.device) for name, tensor in batch.items()}
    if "use_cache" in arguments(model):
        inputs["use_cache"] = False
    model.base_model(**inputs)


def _mask(model: PreTrainedModel, site: Site, batch: Mapping[str, Tensor], tower: str) -> Tensor:
    """Which of the tokens that the FFNs of a tower see are real: (rows, tokens)."""
    name = MASKS["decoder_input_ids" if tower == "decoder" else "input_ids"]
    if name not in batch:  # the decoder of a pair, alone, reads what an only tower would
        name = MASKS["input_ids"]
    if name in batch:
        return batch[name]
    counter = _Counter()
    handle = site.entry.register_forward_pre_hook(counter)
    try:
        _run(model, {key: tensor[:1] for key, tensor in batch.items()})
    finally:
        handle.remove()
    return torch.ones(len(next(iter(batch.values()))), counter.tokens, dtype=torch.long)


@final
class _Counter:
    """A forward hook that keeps how many tokens a module received."""

    tokens = 0

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.tokens = args[0].shape[:-1].numel()


@final
class _Sampler:
    """A forward hook that keeps the rows of a module's input at the current `positions`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.positions = torch.empty(0, dtype=torch.long)
        self.tokens: int | None = None
        self.seen: list[Tensor] = []

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if self.tokens is None:  # a probe
            return
        rows = args[0].detach().flatten(0, -2)
        if len(rows) != self.tokens:
            raise UndenseError(
                f"{self.name} received {len(rows)} tokens at once where {self.tokens} were fed; if"
                " the config sets chunk_size_feed_forward, set it to 0 while converting"
            )
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


def _statistics(name: str, parts: list[Tensor]) -> Statistics:
    inputs = torch.cat(parts)
    if not torch.isfinite(inputs).all():
        raise UndenseError(
            f"{name}: its inputs on the calibration text are NaN or infinite; check the weights of"
            " the blocks before it"
        )
    return Statistics(inputs=inputs)
