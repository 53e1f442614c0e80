"""One-sided filters along time, one a channel, as products with blocks of their Toeplitz matrix.

A filter of up to about a hundred taps is a band of a few blocks: y_i = sum_j x_{i - j} T_j over
blocks of `BLOCK` tokens. That is 2 (taps + BLOCK) FLOPs a number where transforms need some 60, and
still less time: products of matrices run at the processor's full rate and touch the stream once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

from undense.cost import Cost
from undense.ops.full_precision import in_full

BLOCK = 32


def lags_of(taps: int) -> int:
    """How many blocks before its own a block still hears."""
    return -(-(taps - 1) // BLOCK)


def toeplitz(kernel: Tensor) -> Tensor:
    """`kernel` (channels, taps) -> (channels, lags + 1, BLOCK, BLOCK): row s, column t of matrix j
    holds kernel[BLOCK j + t - s], 0 where there is no such tap."""
    return _Toeplitz.apply(kernel)


class _Toeplitz(Function):
    @staticmethod
    def forward(ctx: Any, kernel: Tensor) -> Tensor:
        channels, taps = kernel.shape
        lags = lags_of(taps)
        ctx.taps = taps
        padded = nn.functional.pad(kernel, (BLOCK - 1, BLOCK * (lags + 1) - taps))
        rows = padded.unfold(1, BLOCK, 1).view(channels, lags + 1, BLOCK, BLOCK)
        return rows.flip(2)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]  (as the decorator leaves it)
        ctx: Any, *grad_outputs: Tensor
    ) -> Tensor:
        (grad,) = grad_outputs
        channels, lags = grad.shape[0], grad.shape[1] - 1
        padded = grad.new_zeros(channels, BLOCK * (lags + 2) - 1)
        for j in range(lags + 1):
            for s in range(BLOCK):  # row by row, each where its taps are
                first = BLOCK * (j + 1) - 1 - s
                padded[:, first : first + BLOCK].add_(grad[:, j, s])
        return padded[:, BLOCK - 1 : BLOCK - 1 + ctx.taps]


def filter_blocks(joined: Tensor, table: Tensor) -> Tensor:
    """`joined` (batch, channels, BLOCK * lags + time), zeros or the tokens before the chunk, then
    the chunk, a multiple of BLOCK; `table` from `toeplitz` -> (batch, channels, time)."""
    return _FilterBlocks.apply(joined, table)


class _FilterBlocks(Function):
    # Rows of the batch follow one another in one matrix a channel. Blocks that hear the row before
    # theirs are the places of tokens before the chunk, which are dropped. Results are whole
    # matrices and only inputs are shifted: a product into a part of one would not be batched.

    @staticmethod
    def forward(ctx: Any, joined: Tensor, table: Tensor) -> Tensor:
        batch, channels, length = joined.shape
        lags = table.shape[1] - 1
        x = joined.transpose(0, 1).reshape(channels, -1, BLOCK)
        y = torch.bmm(x[:, lags:], table[:, 0])
        for j in range(1, lags + 1):
            y.baddbmm_(x[:, lags - j : -j], table[:, j])
        ctx.save_for_backward(x, table)
        size, strides = (batch, channels, length - BLOCK * lags), (length, y.stride(0), 1)
        return y.as_strided(size, strides)

    @staticmethod
    @once_differentiable
    @in_full
    def backward(  # type: ignore[override]  (as the decorator leaves it)
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        (grad,) = grad_outputs
        x, table = ctx.saved_tensors
        batch, channels, _ = grad.shape
        lags, blocks = table.shape[1] - 1, x.shape[1]
        padded = nn.functional.pad(grad.transpose(0, 1), (0, BLOCK * lags)).flatten(1)
        padded = nn.functional.pad(padded, (BLOCK * lags, 0)).unflatten(1, (-1, BLOCK))
        back = torch.bmm(padded[:, :blocks], table[:, 0].mT)
        own = padded[:, lags:blocks]
        for_table = torch.empty_like(table)
        for_table[:, 0] = torch.bmm(x[:, lags:].mT, own)
        for j in range(1, lags + 1):
            back.baddbmm_(padded[:, j : j + blocks], table[:, j].mT)
            for_table[:, j] = torch.bmm(x[:, lags - j : -j].mT, own)
        return back.view(channels, batch, -1).transpose(0, 1), for_table


def filter_blocks_cost(name: str, batch: int, time: int, taps: int, channels: int) -> Cost:
    """Products of all blocks, and on the way back of those before the chunk too; their sums."""
    lags = lags_of(taps)
    blocks = batch * (time // BLOCK + lags)
    rows, square = blocks - lags, (lags + 1) * BLOCK * BLOCK * channels
    sums = lags * BLOCK * channels
    return Cost(
        name=name,
        forward=2 * rows * square + rows * sums,
        backward=2 * (rows + blocks) * square + blocks * sums,
        useful=2 * rows * square + rows * sums,
        macs=rows * square,
        weights=square,
        activations=2 * blocks * BLOCK * channels,
    )


def toeplitz_cost(name: str, taps: int, channels: int) -> Cost:
    """Free on the way out; the sums along the diagonals on the way back."""
    return Cost(name=name, backward=BLOCK * BLOCK * (lags_of(taps) + 1) * channels)
