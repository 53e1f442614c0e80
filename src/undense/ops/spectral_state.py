"""What a spectral mixer remembers of the past: one tensor a part, and what those of chunks need."""

from __future__ import annotations

import torch

from undense.mixing import POSITIONS, Slot
from undense.ops.causal_fir import BandedKernel
from undense.ops.mode_selector import HISTORY
from undense.ops.spectral_parts import SpectralParts

CHUNK = "chunk"  # the slot that says how many tokens a chunk has


def state_slots(
    parts: SpectralParts, dim: int, heads: int, *, chunk: int, conv: int
) -> tuple[Slot, ...]:
    """The tensors of the state of a causal mixer, in order."""
    width = dim // heads
    slots = [POSITIONS, Slot("recent inputs", (conv - 1, dim))]
    if isinstance(parts.kernel, BandedKernel):
        slots.append(Slot("recent values", (dim, parts.kernel.taps - 1)))
    if parts.memory is not None:
        slots.append(Slot("memory", (heads, parts.memory.features, width)))
    if parts.bank is not None:
        slots.append(Slot("modes", (heads, parts.bank.modes, 2, width), torch.float64))
    if parts.selector is not None:
        assert parts.bank is not None
        slots += [
            Slot("means", (HISTORY, dim)),
            Slot("running", (1, dim)),
            Slot("awake", (heads, parts.bank.modes)),
            # no numbers: a state of other chunks, whose means are others, has another shape
            Slot(CHUNK, (0, chunk)),
        ]
    return tuple(slots)
