"""Where the tokens of a call stand: slots, cut into chunks.

A mask may be True anywhere. `place` moves the real tokens of each row together, in order, and puts
them where the row's own count of tokens says, so that chunks begin at multiples of the chunk in
that count, whatever the call began with. So what depends on chunk boundaries depends on the
sequence alone and not on how it was split. Between `place` and `pick` time is the last dimension:
what is done to a channel then runs over contiguous numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Slots:
    """`chunks` chunks of `chunk` slots for `time` tokens. `order` (batch, time) lists the tokens of
    a row, real ones first, `lengths` (batch,) how many are real (both None: all are). `offset`
    (batch,): slots of the first chunk that belong to earlier calls (None: none in any row)."""

    time: int
    chunk: int
    chunks: int
    order: Tensor | None = None
    lengths: Tensor | None = None
    offset: Tensor | None = None

    @classmethod
    def of(cls, time: int, chunk: int, mask: Tensor | None, positions: Tensor | None) -> Slots:
        """Slots of a call with this mask (batch, time), True for real tokens, that begins at
        `positions` (batch,); None: at a chunk's start in every row."""
        spare = 0 if positions is None else chunk - 1
        chunks = -(-(spare + time) // chunk)
        offset = None if positions is None else positions % chunk
        if mask is None:
            return cls(time, chunk, chunks, offset=offset)
        order = (~mask).long().argsort(dim=1, stable=True)
        return cls(time, chunk, chunks, order, mask.sum(1), offset)

    @property
    def count(self) -> int:
        """Number of slots."""
        return self.chunks * self.chunk

    @property
    def ragged(self) -> bool:
        """Whether rows may end in different slots."""
        return self.offset is not None or self.lengths is not None

    @property
    def full(self) -> bool:
        """Whether every slot of every row holds a token of this call."""
        return not self.ragged and self.time == self.count

    def place(self, before: Tensor, x: Tensor) -> Tensor:
        """`before` (batch, kept, dim), the tokens before the call, and `x` (batch, time, dim) ->
        (batch, kept + count, dim): the tokens of a row together, zeros elsewhere."""
        kept = before.shape[1]
        joined = torch.cat([before, self.together(x)], 1)
        if self.offset is None:
            missing = self.count - self.time
            return functional.pad(joined, (0, 0, 0, missing)) if missing else joined
        index = torch.arange(kept + self.count, device=x.device) - self.offset[:, None]
        there = (index >= 0) & (index < joined.shape[1])
        index = index.clamp(0, joined.shape[1] - 1)
        return torch.take_along_dim(joined, index[..., None], 1).masked_fill(~there[..., None], 0)

    def together(self, x: Tensor) -> Tensor:
        """(batch, time, dim), the real tokens of a row first, zeros behind them."""
        if self.order is None:
            return x
        assert self.lengths is not None
        there = torch.arange(self.time, device=x.device) < self.lengths[:, None]
        return torch.take_along_dim(x, self.order[..., None], 1).masked_fill(~there[..., None], 0)

    def precede(self, before: Tensor, x: Tensor) -> Tensor:
        """The same of numbers that are in their slots already: (batch, channels, kept) and
        (batch, channels, count) -> (batch, channels, kept + count)."""
        if self.offset is None:
            return torch.cat([before, x], -1)
        index = torch.arange(before.shape[-1], device=x.device) + self.offset[:, None]
        padded = functional.pad(x, (before.shape[-1], 0))
        return padded.scatter(2, index[:, None].expand_as(before), before)

    def pick(self, y: Tensor) -> Tensor:
        """(batch, count, dim) -> (batch, time, dim): every token's own, zeros at padding."""
        if not self.ragged:
            return y[:, : self.time]
        index = torch.arange(self.time, device=y.device).expand(len(y), -1)
        if self.order is not None:
            index = self.order.argsort(dim=1)
        there = None if self.lengths is None else index < self.lengths[:, None]
        if self.offset is not None:
            index = index + self.offset[:, None]
        y = torch.take_along_dim(y, index[..., None], 1)
        return y if there is None else y.masked_fill(~there[..., None], 0)

    def ends(self, batch: int, device: torch.device) -> Tensor:
        """(batch,): the slot behind the last real token of each row; (1,) where rows are alike."""
        if not self.ragged:
            return torch.full((1,), self.time, device=device)
        time = self.lengths
        if time is None:
            time = torch.full((batch,), self.time, device=device)
        return time if self.offset is None else time + self.offset

    def real(self, batch: int, device: torch.device) -> Tensor | None:
        """(batch or 1, 1, count) bool: which slots hold a real token of this call; None: all."""
        if self.full:
            return None
        place = torch.arange(self.count, device=device)
        there = place < self.ends(batch, device)[:, None]
        if self.offset is not None:
            there = there & (place >= self.offset[:, None])
        return there[:, None]

    def tail(self, placed: Tensor, dim: int) -> Tensor:
        """What the next call needs: of `placed`, kept + count long along `dim`, the last `kept`
        that are real."""
        kept = placed.shape[dim] - self.count
        if not self.ragged:  # a copy: a view would keep the whole chunk in memory
            return placed.narrow(dim, self.time, kept).clone()
        index = self.ends(len(placed), placed.device)[:, None]
        index = index + torch.arange(kept, device=placed.device)
        return torch.take_along_dim(placed, index.unsqueeze(3 - dim), dim)

    def reversed(self, x: Tensor) -> Tensor:
        """(batch, channels, count), rows that begin in the first slot: their real tokens in
        reversed order, zeros behind them."""
        assert self.offset is None
        if self.full:
            return x.flip(-1)
        index = self.ends(len(x), x.device)[:, None] - 1 - torch.arange(self.count, device=x.device)
        moved = torch.take_along_dim(x, (index % self.count)[:, None], -1)
        return moved.masked_fill((index < 0)[:, None], 0)

    def heads(self, x: Tensor, heads: int) -> Tensor:
        """(batch, heads * width, count) -> a view (batch, heads, width, chunks, chunk)."""
        return x.unflatten(-1, (self.chunks, self.chunk)).unflatten(1, (heads, -1))

    def packed(self, x: Tensor, heads: int) -> Tensor:
        """The same as (batch, heads, chunks, width, chunk), contiguous: one matrix a chunk."""
        return self.heads(x, heads).transpose(2, 3).contiguous()


def at_a_chunk(positions: Tensor, chunk: int) -> bool:
    """Whether every row is known to go on at a chunk's first token. Only where looking is free,
    that is on the CPU and outside a compiler; a row that is not known to is taken as it may be."""
    if torch.compiler.is_compiling() or positions.device.type != "cpu":
        return False
    return not bool((positions % chunk).any())
