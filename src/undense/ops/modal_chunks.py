"""The modes of a bank over chunks: features for the reading, and the fp64 state between chunks.

With slots only the modes that are awake in a chunk are computed there: their features, their input
and their output. One asleep only decays, once a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from undense import cost
from undense.cost import Cost
from undense.ops.chunk_scan import Features
from undense.ops.modal_bank import ModalBank
from undense.ops.padding import Grid


@dataclass(frozen=True)
class Awake:
    """Which modes: `slots` (batch, chunks, heads, most) int64, and their `weights`, 1 or 0."""

    slots: Tensor
    weights: Tensor


def resonate(
    bank: ModalBank,
    grid: Grid,
    values: Tensor,
    before: Tensor,
    gates: Tensor | None,
    awake: Awake | None,
) -> tuple[Features, Tensor]:
    """Features of the modes in every chunk, and all modes after the last real token.

    `values` (batch, chunks, heads, chunk, width), `before` fp64 (batch, heads, modes, 2, width),
    `gates` (batch, chunks, heads, bands, 2, chunk), conjugated.
    """
    batch, chunks, heads, chunk, width = values.shape
    tables = bank.tables(chunk, values.dtype)
    keys, queries, writes = tables.keys, tables.queries, tables.writes
    turned = torch.stack([-queries[:, :, 1], queries[:, :, 0]], 2)  # times i
    band = bank.band()
    if awake is not None:
        head = torch.arange(heads, device=values.device)[:, None]
        keys, queries, writes, turned = (
            table[head, awake.slots] for table in (keys, queries, writes, turned)
        )
        band = band[awake.slots]
    if gates is not None:
        index = band[..., None, None].expand(batch, chunks, heads, -1, 2, chunk)
        real, imaginary = torch.take_along_dim(gates, index, 3).split(1, -2)
        queries = torch.addcmul(queries * real, turned, imaginary)
    if awake is not None:
        queries = queries * awake.weights[..., None, None]
    flat = (batch, chunks, heads, -1, -1)
    keys, queries, writes = (t.flatten(-3, -2).expand(flat) for t in (keys, queries, writes))
    written = torch.matmul(writes, values).unflatten(3, (-1, 2)).double()
    if awake is not None:
        places = awake.slots[..., None, None].expand_as(written)
        silent = written.new_zeros(batch, chunks, heads, bank.modes, 2, width)
        written = silent.scatter(3, places, written * awake.weights[..., None, None])
    if grid.offset is not None:
        before = bank.wound_back(before, grid.offset)
    ends = grid.ends(batch, values.device)
    last = (ends + chunk - 1) // chunk  # the chunk behind each row's last token
    states, after = _carry(
        before, written, tables.turn, last if grid.ragged else None, values.dtype
    )
    if awake is not None:
        places = awake.slots[..., None, None].expand(-1, -1, -1, -1, 2, width)
        states = torch.take_along_dim(states, places, 3)
    if grid.ragged or grid.packing.time % chunk:
        after = bank.wound_back(after, last * chunk - ends)
    return Features(queries.transpose(-1, -2), keys, states.flatten(3, 4)), after


def resonate_cost(
    bank: ModalBank,
    batch: int,
    chunks: int,
    chunk: int,
    width: int,
    *,
    most: int | None,
    gated: bool,
    wound_back: int,
) -> Cost:
    """`most`: slots of a selection, None without one. `wound_back`: how often a state is."""
    heads, awake = bank.heads, bank.modes if most is None else most
    rows = batch * chunks * heads
    powers = rows * awake * 2 * chunk
    parts = [
        bank.tables_cost("tables", chunk),
        cost.elementwise("turned", heads * bank.modes * chunk),
    ]
    if gated:
        parts.append(cost.elementwise("gated queries", powers, forward=3, macs=2))
    if most is not None:
        parts.append(cost.elementwise("awake queries", powers))
    written = rows * awake * 2 * width
    parts.append(cost.elementwise("write", written * chunk, forward=2, macs=1))
    if most is not None:
        parts.append(cost.elementwise("awake writes", written))
    all_modes = rows * bank.modes * 2 * width
    parts += [
        cost.elementwise("signs", heads * bank.modes),
        cost.elementwise("carry", all_modes, forward=4, macs=2),
    ]
    parts += [bank.wound_back_cost("wound back", batch, width)] * wound_back
    return Cost.total("modes", *parts)


def _carry(
    start: Tensor, written: Tensor, turn: Tensor, last: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """States before each chunk, rounded to `dtype`, and in fp64 the one after the last chunk (after
    chunk `last` (batch,) where rows differ): Z <- turn Z + written, complex.

    `start` (batch, heads, modes, 2, width), `written` (batch, chunks, …), `turn` (heads, modes, 2,
    1).
    """
    real, imaginary = turn.split(1, -2)
    crossed = torch.cat([-imaginary, imaginary], -2)
    chunks = written.shape[1]
    training = torch.is_grad_enabled()
    before = None if training else torch.empty_like(written, dtype=dtype)
    rounded = []
    state = after = start
    for i in range(chunks):
        if before is None:
            rounded.append(state.to(dtype))
        else:
            before[:, i] = state
        state = torch.addcmul(torch.addcmul(written[:, i], state, real), state.flip(-2), crossed)
        if last is not None:
            after = torch.where((last == i + 1).view(-1, 1, 1, 1, 1), state, after)
    if before is None:
        before = torch.stack(rounded, 1)
    return before, state if last is None else after
