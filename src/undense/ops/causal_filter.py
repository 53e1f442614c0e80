"""A kernel ready to be run over slots: row by row, as blocks of a matrix, or by transforms."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from undense.cost import Cost
from undense.ops.block_fir import (
    BLOCK,
    filter_blocks,
    filter_blocks_cost,
    lags_of,
    toeplitz,
    toeplitz_cost,
)
from undense.ops.causal_fir import BandedKernel, overlap_save, overlap_save_cost
from undense.ops.row_fir import compiled, row_fir

LONGEST_BLOCKED = 160  # taps; beyond it transforms are quicker


@dataclass(frozen=True)
class CausalFilter:
    """A kernel (channels, taps) ready to be run: by the compiled operation or as blocks of a
    Toeplitz matrix, or by transforms where it is long. `early`: tokens before the chunk that it is
    given, at least taps - 1."""

    kernel: Tensor
    table: Tensor | None
    early: int

    @classmethod
    def of(cls, kernel: Tensor) -> CausalFilter:
        taps = kernel.shape[1]
        if taps > LONGEST_BLOCKED or compiled(kernel):
            return cls(kernel, None, taps - 1)
        return cls(kernel, toeplitz(kernel), BLOCK * lags_of(taps))

    def __call__(self, joined: Tensor) -> Tensor:
        """(batch, channels, early + time) -> (batch, channels, time)."""
        if self.table is None:
            if self.kernel.shape[1] > LONGEST_BLOCKED:
                return overlap_save(joined, self.kernel)
            return row_fir(joined, self.kernel, block=BLOCK)
        time = joined.shape[-1] - self.early
        missing = -time % BLOCK
        joined = nn.functional.pad(joined, (0, missing)) if missing else joined
        return filter_blocks(joined, self.table)[..., :time]


def filter_cost(name: str, batch: int, slots: int, kernel: BandedKernel) -> Cost:
    """A banded kernel over slots, the way `CausalFilter` runs it."""
    taps, channels = kernel.taps, kernel.channels
    if taps > LONGEST_BLOCKED:
        return overlap_save_cost(name, batch, slots, taps, channels)
    whole = -(-slots // BLOCK) * BLOCK
    return Cost.total(
        name,
        toeplitz_cost("blocks", taps, channels),
        filter_blocks_cost("products", batch, whole, taps, channels),
    )
