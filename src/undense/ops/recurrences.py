"""What memory and modes say about a segment, and what a call prepares for all its segments."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from undense.ops.causal_filter import CausalFilter
from undense.ops.causal_fir import BandedKernel
from undense.ops.chunk_scan import Features, read
from undense.ops.content_memory import Streams
from undense.ops.modal_bank import ModeTables, Rates
from undense.ops.modal_chunks import resonate
from undense.ops.mode_selector import Past
from undense.ops.slots import Slots
from undense.ops.spectral_parts import SpectralParts


@dataclass(frozen=True)
class Drive:
    """What the projections make of a chunk, time last: `v` (batch, dim, time), the streams of the
    memory, `z` of the output's gate, `logits` of the band gates."""

    v: Tensor
    memory: Streams
    z: Tensor
    logits: Tensor


@dataclass
class Prepared:
    """What follows from the weights alone and is made once a call: the filter, the modes' rates and
    tables, the maps that carry them over so many chunks, what band dropout drew."""

    filter: CausalFilter | None
    rates: Rates | None
    modes: ModeTables | None
    carries: dict[int, tuple[Tensor, Tensor]]
    silence: Tensor | None


def prepare(parts: SpectralParts, batch: int, chunk: int, dtype: torch.dtype) -> Prepared:
    """What a call on `batch` rows needs of the weights."""
    bank = parts.bank
    rates = None if bank is None else bank.rates()
    return Prepared(
        filter=(
            CausalFilter.of(parts.kernel().to(dtype))
            if isinstance(parts.kernel, BandedKernel)
            else None
        ),
        rates=rates,
        modes=None if bank is None or rates is None else bank.tables(rates, chunk, dtype),
        carries={},
        silence=None if parts.gates is None else parts.gates.silenced(batch),
    )


def recur(
    parts: SpectralParts,
    heads: int,
    drive: Drive,
    past: dict[str, Tensor],
    slots: Slots,
    following: dict[str, Tensor],
    prepared: Prepared,
    share: float,
) -> list[Tensor]:
    """What memory and modes say together, (batch, heads, width, chunks, chunk), or nothing;
    their state goes into `following`."""
    if parts.memory is None and parts.bank is None:
        return []
    values = slots.packed(drive.v, heads)
    kinds: list[Features] = []
    if parts.memory is not None:
        kind, following["memory"] = parts.memory.chunks(drive.memory, slots, values, past["memory"])
        kinds.append(kind)
    if parts.bank is not None:
        awake = None
        if parts.selector is not None:
            awake, chosen = parts.selector.over_chunks(chosen_in(past), drive.v, slots)
            following |= vars(chosen)
        gates = None
        if parts.gates is not None:
            gates = parts.gates(drive.logits, silence=prepared.silence, share=share)
        assert prepared.rates is not None and prepared.modes is not None
        chunks = slots.chunks
        if chunks not in prepared.carries:
            carry = parts.bank.carry(prepared.rates, slots.chunk, chunks, values.dtype)
            prepared.carries[chunks] = carry
        kind, following["modes"] = resonate(
            parts.bank,
            prepared.rates,
            prepared.modes,
            prepared.carries[chunks],
            slots,
            values,
            past["modes"],
            gates,
            awake,
        )
        kinds.append(kind)
    return [read(values, kinds).transpose(2, 3)]


def chosen_in(past: dict[str, Tensor]) -> Past:
    """What a selector remembers, of a named state."""
    return Past(past["means"], past["running"], past["awake"])
