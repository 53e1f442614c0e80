"""How a spectral mixer calls its compiled operations, and when it may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

import undense.ops.spectral_inference  # noqa: F401  (defines the operations)
from undense.kernels.library import alike, serves
from undense.mixing import Slot, State
from undense.ops.mode_selector import ModeSelector
from undense.ops.recurrences import chosen_in
from undense.ops.slots import Slots
from undense.ops.spectral_parts import SpectralParts
from undense.ops.spectral_tables import Weights, weights_of
from undense.ops.spectral_token import Token, alike_state, evaluating, inside

Named = dict[str, Tensor]


def served(
    own: nn.Module,
    parts: SpectralParts,
    x: Tensor,
    state: State | None,
    slots: Sequence[Slot],
) -> Weights | None:
    """The weights, if the compiled operations take this call: for inference in fp32 on a CPU, of
    parts that are nothing but themselves."""
    if own.training or x.dtype != torch.float32 or not serves(x):
        return None
    if torch._C._get_tracing_state() is not None or not evaluating(inside(own, parts.selector)):
        return None
    weights = weights_of(own, parts)
    if weights is None or not alike(x, (t for t in weights if t is not weights.octave)):
        return None
    return weights if state is None or alike_state(state, slots) else None


def _state(past: Named, x: Tensor, heads: int) -> list[Tensor]:
    """Recent inputs, recent values, memory, modes; empty where there is no such part."""
    found = [past["recent inputs"]]
    for name in ("recent values", "memory", "modes"):
        if name not in past:
            dtype = torch.float64 if name == "modes" else x.dtype
            batch, _, dim = x.shape
            shape = (dim, 0) if name == "recent values" else (heads, 0, 2, dim // heads)
            shape = (heads, 0, dim // heads) if name == "memory" else shape
            found.append(x.new_empty(batch, *shape, dtype=dtype))
        else:
            found.append(past[name])
    return found


def _name(past: Named, after: list[Tensor]) -> Named:
    names = ("recent inputs", "recent values", "memory", "modes")
    return {name: part for name, part in zip(names, after, strict=True) if name in past}


def stretch(
    parts: SpectralParts,
    weights: Weights,
    x: Tensor,
    mask: Tensor | None,
    past: Named,
    heads: int,
    chunk: int,
    segment: int,
    *,
    aligned: bool,
) -> tuple[Tensor, Named]:
    """A call on any number of tokens; `aligned`: every row begins at a chunk's first one."""
    slots = Slots.of(x.shape[1], chunk, mask, None if aligned else past["positions"])
    together = replace(slots, offset=None)  # where the rows' tokens stand for the operations
    x = slots.together(x)
    time = x.shape[1] if mask is None else mask.sum(1)
    following = {"positions": past["positions"] + time}
    rows = slots.lengths, slots.offset
    modes = opened = None
    if parts.selector is not None:
        sums = torch.ops.undense.spectral_sums(
            x, past["recent inputs"], *rows, weights.project_in, weights.conv, chunk, slots.chunks
        )
        awake, chosen = parts.selector.over_sums(chosen_in(past), sums, slots)
        modes, opened = awake.modes, awake.weights
        following |= vars(chosen)
    y, *after = torch.ops.undense.spectral_stretch(
        x, *rows, modes, opened, _state(past, x, heads), list(weights), heads, chunk, segment
    )
    return together.pick(y), following | _name(past, after)


def step(
    found: Weights | Token,
    selector: ModeSelector | None,
    x: Tensor,
    past: Named,
    heads: int,
    chunk: int,
) -> tuple[Tensor, Named]:
    """The next token."""
    awake, state = None, _state(past, x, heads)
    if selector is not None:
        awake = selector.awake(chosen_in(past), past["positions"], chunk, x.dtype)
        state += [past["means"], past["running"]]
    if isinstance(found, Token):
        y, *after = found(x, past["positions"], awake, state)
    else:
        y, *after = torch.ops.undense.spectral_step(
            x, past["positions"], awake, state, list(found), heads, chunk
        )
    following = {"positions": past["positions"] + 1} | _name(past, after[:4])
    if awake is not None:
        following |= dict(zip(("means", "running", "awake"), after[4:], strict=True))
    return y, following
