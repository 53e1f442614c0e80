"""Padding and chunk grids: where the real tokens of every row stand.

A mask may be True anywhere. `Packing` moves the real tokens of each row to its front, in order, so
that everything after it meets padding only at a row's end; `Grid` then cuts rows into chunks that
begin at multiples of the chunk in the row's own count of tokens, whatever the call began with. So
what depends on chunk boundaries depends on the sequence alone and not on how it was split.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Packing:
    """Real tokens first: `order` (batch, time) lists the tokens of a row, `lengths` (batch,) how
    many are real. Both None: all are."""

    time: int
    order: Tensor | None = None
    lengths: Tensor | None = None

    @classmethod
    def of(cls, time: int, mask: Tensor | None) -> Packing:
        """The packing of a mask (batch, time), True for real tokens."""
        if mask is None:
            return cls(time)
        order = (~mask).long().argsort(dim=1, stable=True)
        return cls(time, order, mask.sum(1))

    def real(self, device: torch.device) -> Tensor | None:
        """(batch, time) bool: where packed rows hold real tokens; None: everywhere."""
        if self.lengths is None:
            return None
        return torch.arange(self.time, device=device) < self.lengths[:, None]

    def pack(self, x: Tensor) -> Tensor:
        """(batch, time, features), real tokens first, zeros behind them."""
        if self.order is None:
            return x
        real = self.real(x.device)
        assert real is not None
        moved = torch.take_along_dim(x, self.order[..., None], 1)
        return moved.masked_fill(~real[..., None], 0)

    def only_real(self, x: Tensor) -> Tensor:
        """Packed rows with zeros behind their real tokens."""
        real = self.real(x.device)
        return x if real is None else x.masked_fill(~real[..., None], 0)

    def unpack(self, x: Tensor) -> Tensor:
        """Back to where the tokens came from, zeros elsewhere."""
        if self.order is None:
            return x
        real = self.real(x.device)
        assert real is not None
        back = self.order.argsort(dim=1)[..., None]
        return torch.take_along_dim(x.masked_fill(~real[..., None], 0), back, 1)

    def reversed(self, x: Tensor) -> Tensor:
        """Packed rows with their real tokens in reversed order."""
        if self.lengths is None:
            return x.flip(1)
        index = self.lengths[:, None] - 1 - torch.arange(self.time, device=x.device)
        return torch.take_along_dim(x, (index % self.time)[..., None], 1) * (index >= 0)[..., None]

    def after(self, before: Tensor, x: Tensor) -> Tensor:
        """The tail that the next call needs: the last `before.shape[1]` real tokens of
        `before` followed by packed `x`."""
        kept = before.shape[1]
        if self.lengths is None and self.time >= kept:
            return x[:, self.time - kept :].clone()  # a view would keep the whole chunk in memory
        joined = torch.cat([before, x], 1)
        if self.lengths is None:
            return joined[:, self.time :]
        index = self.lengths[:, None] + torch.arange(kept, device=x.device)
        return torch.take_along_dim(joined, index[..., None], 1)


@dataclass(frozen=True)
class Grid:
    """Chunks of packed rows. `offset` (batch,): how many tokens of the first chunk came in earlier
    calls (None: none in any row)."""

    packing: Packing
    chunk: int
    chunks: int
    offset: Tensor | None = None

    @classmethod
    def of(cls, packing: Packing, chunk: int, positions: Tensor | None) -> Grid:
        """The grid of a call that begins at `positions` (batch,); None: at a chunk's start."""
        if positions is None:
            return cls(packing, chunk, -(-packing.time // chunk))
        return cls(packing, chunk, -(-(chunk - 1 + packing.time) // chunk), positions % chunk)

    def cut(self, x: Tensor) -> Tensor:
        """(batch, time, …) -> (batch, chunks, chunk, …), zeros where there is no token."""
        slots = self.chunks * self.chunk
        if self.offset is None:
            missing = slots - self.packing.time
            if missing:
                x = functional.pad(x, (0, 0) * (x.dim() - 2) + (0, missing))
            return x.unflatten(1, (self.chunks, self.chunk))
        index = torch.arange(slots, device=x.device) - self.offset[:, None]
        there = (index >= 0) & (index < self.packing.time)
        rest = (1,) * (x.dim() - 2)
        index = index.clamp(0, self.packing.time - 1).unflatten(1, (-1, *rest))
        there = there.unflatten(1, (-1, *rest))
        moved = torch.take_along_dim(x, index, 1).masked_fill(~there, 0)
        return moved.unflatten(1, (self.chunks, self.chunk))

    def join(self, x: Tensor) -> Tensor:
        """The inverse of `cut`."""
        x = x.flatten(1, 2)
        if self.offset is None:
            return x[:, : self.packing.time]
        index = torch.arange(self.packing.time, device=x.device) + self.offset[:, None]
        return torch.take_along_dim(x, index.unflatten(1, (-1, *(1,) * (x.dim() - 2))), 1)

    def ends(self, batch: int, device: torch.device) -> Tensor:
        """(batch,): the slot behind the last real token of each row."""
        time = self.packing.lengths
        if time is None:
            time = torch.full((batch,), self.packing.time, device=device)
        return time if self.offset is None else time + self.offset

    @property
    def ragged(self) -> bool:
        """Whether rows may end in different chunks."""
        return self.offset is not None or self.packing.lengths is not None

    def heads(self, x: Tensor, heads: int) -> Tensor:
        """(batch, time, heads * width) -> (batch, chunks, heads, chunk, width), contiguous."""
        return self.cut(x).unflatten(-1, (heads, -1)).transpose(2, 3).contiguous()
