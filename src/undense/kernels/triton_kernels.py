"""The products over pairs of a token and a block in Triton, a program a tile.

A tile is up to `tile_p` pairs of one block, which lie side by side: `pairs.py` sorts them. The
table `tile_block` says whose tile each program has; it is as long as it can ever have to be, so
that the host need not know how many tiles there are; programs beyond the last one return.

Sums are fp32. What a mask leaves out is zero in both operands, lest 0 * inf reach a neighbour.
What lies behind a token, a pair or a block is found in 64 bits: 200 K tokens with 18 blocks each
are more numbers than 32 bits count.

The interpreter multiplies the bits of bf16 as if they were integers (3.7.1); `widen` turns them to
fp32 first, which changes no product. Compiled kernels do without.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

INTERPRETED = knobs.runtime.interpret  # read where `triton.jit` reads it: when this is read


@triton.jit
def _product(left, right, total, precision: tl.constexpr, widen: tl.constexpr):
    """total + left right."""
    if widen:
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, total, input_precision=precision)


@triton.jit
def _pairs_of(tile, block, offsets, ends, tile_p: tl.constexpr):
    """The places of a tile's pairs, and which of them are the block's."""
    before = tl.load(ends + block - 1, mask=block > 0, other=0)
    pair = tl.load(offsets + block) + (tile - before) * tile_p + tl.arange(0, tile_p)
    return pair, pair < tl.load(offsets + block + 1)


@triton.jit
def gather_dot(
    rows, matrix, bias, out, token, offsets, ends, tile_block, blocks, width, dim,
    biased: tl.constexpr, tile_p: tl.constexpr, tile_w: tl.constexpr, tile_d: tl.constexpr,
    precision: tl.constexpr, widen: tl.constexpr,
):  # fmt: skip
    """out[p] = matrix[block of p] rows[token of p] + bias[block of p]; neurons turn fastest, so
    that rows are gathered again while they are in the cache."""
    across = (width + tile_w - 1) // tile_w
    tile = tl.program_id(0) // across
    block = tl.load(tile_block + tile)
    if block >= blocks:
        return
    pair, here = _pairs_of(tile, block, offsets, ends, tile_p)  # pyright: ignore[reportGeneralTypeIssues]
    neuron = tl.program_id(0) % across * tile_w + tl.arange(0, tile_w)
    within = neuron < width
    row = rows + tl.load(token + pair, mask=here, other=0)[:, None] * dim
    weight = matrix + (block * width + neuron)[None, :] * dim
    total = tl.full((tile_p, tile_w), 0.0, tl.float32)
    for start in range(0, dim, tile_d):
        feature = start + tl.arange(0, tile_d)
        left = tl.load(
            row + feature[None, :], mask=here[:, None] & (feature < dim)[None, :], other=0.0
        )
        right = tl.load(
            weight + feature[:, None], mask=within[None, :] & (feature < dim)[:, None], other=0.0
        )
        total = _product(left, right, total, precision, widen)
    if biased:
        added = tl.load(bias + block * width + neuron, mask=within, other=0.0)
        total += added.to(tl.float32)[None, :]
    to = out + pair[:, None] * width + neuron[None, :]
    tl.store(to, total, mask=here[:, None] & within[None, :])


@triton.jit
def scatter(
    values, matrix, parts, order, offsets, ends, tile_block, blocks, width, dim, first, columns,
    tile_p: tl.constexpr, tile_w: tl.constexpr, tile_d: tl.constexpr,
    precision: tl.constexpr, widen: tl.constexpr,
):  # fmt: skip
    """parts[order of p] = matrix[block of p]^T values[p], `columns` of its columns from `first`
    on."""
    across = (columns + tile_d - 1) // tile_d
    tile = tl.program_id(0) // across
    block = tl.load(tile_block + tile)
    if block >= blocks:
        return
    pair, here = _pairs_of(tile, block, offsets, ends, tile_p)  # pyright: ignore[reportGeneralTypeIssues]
    column = tl.program_id(0) % across * tile_d + tl.arange(0, tile_d)
    within = column < columns
    total = tl.full((tile_p, tile_d), 0.0, tl.float32)
    for start in range(0, width, tile_w):
        neuron = start + tl.arange(0, tile_w)
        left = tl.load(
            values + pair[:, None] * width + neuron[None, :],
            mask=here[:, None] & (neuron < width)[None, :],
            other=0.0,
        )
        right = tl.load(
            matrix + (block * width + neuron)[:, None] * dim + (first + column)[None, :],
            mask=(neuron < width)[:, None] & within[None, :],
            other=0.0,
        )
        total = _product(left.to(matrix.dtype.element_ty), right, total, precision, widen)
    place = tl.load(order + pair, mask=here, other=0)
    to = parts + place[:, None] * columns + column[None, :]
    tl.store(to, total, mask=here[:, None] & within[None, :])


@triton.jit
def add_up(
    parts, y, tokens, k, dim, first, columns, tile_t: tl.constexpr, tile_d: tl.constexpr
):  # fmt: skip
    """y[t] = the sum of the k parts of t, one after the other: the same bits at every call."""
    token = tl.program_id(0).to(tl.int64) * tile_t + tl.arange(0, tile_t)
    column = tl.program_id(1) * tile_d + tl.arange(0, tile_d)
    within = (token < tokens)[:, None] & (column < columns)[None, :]
    part = parts + token[:, None] * k * columns + column[None, :]
    total = tl.full((tile_t, tile_d), 0.0, tl.float32)
    for choice in range(k):
        total += tl.load(part + choice * columns, mask=within, other=0.0)
    tl.store(y + token[:, None] * dim + (first + column)[None, :], total, mask=within)


@triton.jit
def outer_sum(
    values, rows, grad, token, offsets, width, dim,
    tile_p: tl.constexpr, tile_w: tl.constexpr, tile_d: tl.constexpr,
    precision: tl.constexpr, widen: tl.constexpr,
):  # fmt: skip
    """grad[b] = sum over the pairs p of b of values[p] rows[token of p]^T; a program goes over all
    pairs of its block, in their order, and writes zeros where there are none."""
    across = (dim + tile_d - 1) // tile_d
    tiles = (width + tile_w - 1) // tile_w * across
    block = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    neuron = tile // across * tile_w + tl.arange(0, tile_w)
    feature = tile % across * tile_d + tl.arange(0, tile_d)
    within = (neuron < width)[:, None]
    inside = (feature < dim)[None, :]
    total = tl.full((tile_w, tile_d), 0.0, tl.float32)
    last = tl.load(offsets + block + 1)
    for start in range(tl.load(offsets + block), last, tile_p):
        pair = start + tl.arange(0, tile_p)
        here = pair < last
        left = tl.load(
            values + pair[None, :] * width + neuron[:, None], mask=here[None, :] & within, other=0.0
        )
        at = tl.load(token + pair, mask=here, other=0)
        right = tl.load(
            rows + at[:, None] * dim + feature[None, :], mask=here[:, None] & inside, other=0.0
        )
        total = _product(left.to(rows.dtype.element_ty), right, total, precision, widen)
    to = grad + (block * width + neuron)[:, None] * dim + feature[None, :]
    tl.store(to, total, mask=within & inside)
