"""The modes of a bank over chunks: features for the reading, and the fp64 state between chunks.

With slots only the modes that are awake in a chunk are computed there: their features, their input
and their output. One asleep only decays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from undense import cost
from undense.cost import Cost
from undense.ops.chunk_scan import Features, write, write_cost
from undense.ops.modal_bank import ModalBank, ModeTables, Rates, times
from undense.ops.slots import Slots

Gates = tuple[Tensor, Tensor]
"""Real and imaginary part, (batch, heads, bands, time) each."""


@dataclass(frozen=True)
class Awake:
    """Which modes: `modes` (batch, heads, chunks, most) int64, and their `weights`, 1 or 0."""

    modes: Tensor
    weights: Tensor


def resonate(
    bank: ModalBank,
    rates: Rates,
    tables: ModeTables,
    carry: tuple[Tensor, Tensor],
    slots: Slots,
    values: Tensor,
    before: Tensor,
    gates: Gates | None,
    awake: Awake | None,
) -> tuple[Features, Tensor]:
    """Features of the modes in every chunk, and all modes after the last real token.

    `values` (batch, heads, chunks, width, chunk), 0 where no token is; `before` and what is
    returned fp64 (batch, heads, modes, 2, width); `carry`: of the bank, for so many chunks.
    """
    batch, heads, chunks, width, chunk = values.shape
    device = values.device
    if awake is None:
        modes = torch.arange(bank.modes, device=device).expand(batch, heads, chunks, -1)
    else:
        modes = awake.modes
    head = torch.arange(heads, device=device)[:, None, None]
    row = modes + head * bank.modes  # (batch, heads, chunks, most)
    keys = tables.keys.index_select(0, row.flatten()).view(*row.shape[:3], -1, chunk)
    queries = tables.queries if gates is not None else tables.queries[:, :1]
    queries = queries.index_select(0, row.flatten()).view(*row.shape, -1, 2, chunk)
    if gates is not None:
        bands = torch.stack([g.unflatten(-1, (chunks, chunk)) for g in gates], -2)
        place = torch.arange(batch, device=device)[:, None, None, None] * heads + head
        place = place * bands.shape[2] + bank.band()[modes]
        place = place * chunks + torch.arange(chunks, device=device)[:, None]
        turn = bands.flatten(0, 3).index_select(0, place.flatten()).view(*row.shape, 2, 1, chunk)
        queries = torch.addcmul(
            queries[..., 0, :, :] * turn[..., 0, :, :], queries[..., 1, :, :], turn[..., 1, :, :]
        )
    queries = queries.reshape(keys.shape)
    written = write(keys, values).unflatten(3, (-1, 2))
    if awake is not None:
        weights = awake.weights[..., None, None]
        queries = (queries.unflatten(3, (-1, 2)) * weights).flatten(3, 4)
        written = written * weights
    if slots.offset is not None:
        before = bank.wound_back(rates, before, slots.offset)
    sources, place = _sources(bank, written, before, row)
    whole, last = torch.bmm(carry[0], sources), carry[1]
    states = whole.view(-1, width).index_select(0, place).view(batch, heads, chunks, -1, width)
    if slots.full:
        rows = whole.unflatten(1, (2, -1))[:, :, -1].unflatten(-1, (batch, width))
        after = _joined(before, last, rows.permute(2, 0, 1, 3))
    else:
        after = _after(bank, rates, slots, sources, before)
    return Features(queries, keys, states), after


def _joined(before: Tensor, ahead: Tensor, written: Tensor) -> Tensor:
    """The start on its own way, and what was written (batch, heads * modes, 2, width)."""
    return times(ahead, before) + written.reshape(before.shape).double()


def _sources(
    bank: ModalBank, written: Tensor, before: Tensor, row: Tensor
) -> tuple[Tensor, Tensor]:
    """One matrix a mode and head, (heads * modes, 2 * (chunks + 1), batch * width): the state at
    the start, then what each chunk wrote; and where in them, one place earlier, each number of
    `written` (batch, heads, chunks, most, 2, width) goes. `row`: its mode and head."""
    batch, heads, chunks, _, _, width = written.shape
    device = written.device
    pair = torch.arange(2, device=device)
    place = (row[..., None] * 2 + pair) * (chunks + 1)
    place = place + torch.arange(chunks, device=device)[:, None, None]
    place = (place * batch + torch.arange(batch, device=device).view(-1, 1, 1, 1, 1)).flatten()
    size = heads * bank.modes * 2 * (chunks + 1) * batch
    first = torch.arange(0, size, (chunks + 1) * batch, device=device)
    first = first + torch.arange(batch, device=device)[:, None]
    sources = written.new_zeros(size, width).index_copy(
        0,
        torch.cat([first.flatten(), place + batch]),
        torch.cat([before.to(written.dtype).flatten(0, 3), written.flatten(0, 4)]),
    )
    return sources.view(heads * bank.modes, 2 * (chunks + 1), batch * width), place


def _after(bank: ModalBank, rates: Rates, slots: Slots, sources: Tensor, before: Tensor) -> Tensor:
    """The state after the last real token: what the chunks wrote, and in fp64 what was before."""
    batch, width = len(before), before.shape[-1]
    ends = slots.ends(batch, sources.device)
    table, ahead = bank.to_ends(rates, slots.chunk, slots.chunks, ends, sources.dtype)
    if len(ends) == 1:
        written = torch.bmm(table[:, 0], sources).unflatten(-1, (batch, width))
        written = written.permute(2, 0, 1, 3)
    else:
        rows = sources.unflatten(-1, (batch, width)).transpose(1, 2)  # one matrix a row
        written = torch.matmul(table, rows).transpose(0, 1)
    return _joined(before, ahead, written)


def resonate_cost(
    bank: ModalBank,
    batch: int,
    chunks: int,
    chunk: int,
    width: int,
    *,
    most: int | None,
    gated: bool,
    later: bool,
    full: bool,
) -> Cost:
    """`most`: modes of a selection, None without one. `later`: rows may begin inside a chunk.
    `full`: every slot holds a token."""
    modes = bank.heads * bank.modes
    picked = batch * chunks * bank.heads * (bank.modes if most is None else most)
    pairs, states = 2 * picked * chunk, 2 * picked * width
    parts = [cost.gather("keys", pairs), cost.gather("queries", (1 + gated) * pairs)]
    if gated:  # two complex products, summed; back, the sums over what is used twice too
        parts += [
            cost.gather("gates", pairs),
            Cost(name="gated queries", forward=3 * pairs, backward=21 * pairs // 2, macs=2 * pairs),
        ]
    if most is not None:
        parts.append(cost.elementwise("awake queries and writes", pairs + states, backward=1))
    rows = batch * chunks * bank.heads
    square = modes * (2 * (chunks + 1)) ** 2 * batch * width
    parts += [
        write_cost("write", rows, chunk, width, 2 * picked // rows),
        cost.fan_out("keys written and read", pairs, 2),
        Cost(name="carry", forward=2 * square, backward=4 * square, useful=2 * square, macs=square),
        cost.gather("states", states),
        *[bank.wound_back_cost("wound back", batch, width)] * later,
        *[bank.ends_cost("ends", batch, chunks, width, ragged=later)] * (not full),
        cost.elementwise("start", batch * modes * width, forward=6 + 2, macs=4),
    ]
    return Cost.total("modes", *parts)
