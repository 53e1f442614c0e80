"""The products over pairs of a token and a block, on a GPU by Triton."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, final

import torch
from torch import Tensor

from undense.kernels import triton_kernels
from undense.kernels.pairs import Pairs, require_one_dtype, wide

LEAST, MOST = 16, 64  # pairs in a tile: no matrix unit takes fewer rows; registers bound them
# Of the buffer that `scatter_add` sums from: less than the level-2 cache of the cards it is for
# (A100: 40 MB, H100: 50 MB), where it is written and read again.
BUFFER_BYTES = 32 * 2**20
LINE_BYTES = 128  # a row is gathered by whole lines of the cache


@final
class TritonPairs(Pairs):
    """By `triton_kernels.py`, for tensors of a GPU in fp32, bf16 or fp16. On an H100 the presets
    agree with fp64, forward and back; at width 768 they are slower than a dense FFN there
    (`docs/log.md`).

    Nothing waits for the GPU: which pairs are a block's is known on the device alone. A block that
    does not exist is an assertion on the device, as for torch's own indices.

    Every sum has one order, so that results are the same to the bit at every call: `scatter_add`
    writes each pair's part to its place in the flattened choice and then adds the k parts of a
    token, instead of adding atomically. Where parts of all columns would outgrow the cache it
    takes some columns after the others.

    What can be argued without hardware. A block of w neurons does 2 w FLOPs with every number that
    is gathered, so that with few tokens, where weights are read once, time goes with the bytes of
    the chosen blocks; with many, narrow blocks are bound by the cache rather than by the
    matrix units: 32 neurons in bf16 are 32 FLOPs a byte, a tenth of what an H100 needs to be busy.
    Presets make blocks wider with the width (`BlockTopK.fitted`: 32 at 768, 128 at 4096)."""

    def __init__(self, chosen: Tensor, blocks: int) -> None:
        """`chosen` (tokens, k): numbers of blocks."""
        self.tokens, self.k = chosen.shape
        self.blocks = blocks
        self.pairs = chosen.numel()
        ordered, self.order = chosen.flatten().sort(stable=True)
        self.token = self.order // max(1, self.k)
        numbers = torch.arange(blocks + 1, dtype=chosen.dtype, device=chosen.device)
        self.offsets = torch.searchsorted(ordered, numbers)  # (blocks + 1,), the first is 0
        torch.ops.aten._assert_async.msg(
            self.offsets[-1] - self.offsets[0] == self.pairs,
            f"a chosen block does not exist; there are {blocks}",
        )
        self.tile = _tile(self.pairs // blocks, MOST)
        # Each block has at most one tile that is not full, and none without a pair.
        self.tiles = min(self.pairs, (self.pairs + blocks * (self.tile - 1)) // self.tile)
        self.ends = ((self.offsets.diff() + self.tile - 1) // self.tile).cumsum(0)
        every = torch.arange(self.tiles, device=chosen.device)
        self.tile_block = torch.searchsorted(self.ends, every, right=True)  # `blocks`: no tile

    def gather_dot(self, rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        require_one_dtype(rows, matrix, bias)
        blocks, width, dim = matrix.shape
        out = rows.new_empty(self.pairs, width, dtype=wide(rows.dtype))
        if self.pairs:
            tile_w = _tile(width, LEAST if self.tile == LEAST else MOST)
            self._run(
                triton_kernels.gather_dot,
                (self.tiles * -(-width // tile_w),),
                *(rows.contiguous(), matrix.contiguous()),
                *(matrix if bias is None else bias.contiguous(), out),
                *(self.token, self.offsets, self.ends, self.tile_block, blocks, width, dim),
                biased=bias is not None,
                tile_p=self.tile,
                tile_w=tile_w,
                tile_d=_line(rows),
                **_arithmetic(rows),
            )
        return out

    def scatter_add(self, values: Tensor, matrix: Tensor) -> Tensor:
        blocks, width, dim = matrix.shape
        y = matrix.new_zeros(self.tokens, dim)
        if not self.pairs:
            return y
        values, matrix = values.contiguous(), matrix.contiguous()
        tile_d = _tile(dim, 64)
        fitting = BUFFER_BYTES // (4 * self.pairs) // tile_d * tile_d
        slice_ = min(dim, max(tile_d, fitting))
        parts = values.new_empty(self.pairs * slice_, dtype=torch.float32)
        table = (self.order, self.offsets, self.ends, self.tile_block)
        for first in range(0, dim, slice_):
            columns = min(slice_, dim - first)
            self._run(
                triton_kernels.scatter,
                (self.tiles * -(-columns // tile_d),),
                *(values, matrix, parts, *table, blocks, width, dim, first, columns),
                tile_p=self.tile,
                tile_w=_tile(width, 32),
                tile_d=tile_d,
                **_arithmetic(matrix),
            )
            self._run(
                triton_kernels.add_up,
                (-(-self.tokens // 16), -(-columns // tile_d)),
                *(parts, y, self.tokens, self.k, dim, first, columns),
                tile_t=16,
                tile_d=tile_d,
            )
        return y

    def outer_sum(self, values: Tensor, rows: Tensor) -> Tensor:
        width, dim = values.shape[1], rows.shape[1]
        grad = rows.new_empty(self.blocks, width, dim)
        tile_w, tile_d = _tile(width, 64), _tile(dim, 64)
        self._run(
            triton_kernels.outer_sum,
            (self.blocks * -(-width // tile_w) * -(-dim // tile_d),),
            *(values.contiguous(), rows.contiguous(), grad),
            *(self.token, self.offsets, width, dim),
            tile_p=32,
            tile_w=tile_w,
            tile_d=tile_d,
            **_arithmetic(rows),
        )
        return grad

    def _run(self, kernel: Any, grid: tuple[int, ...], *operands: Any, **constants: Any) -> None:
        """On the GPU of the tensors, which need not be the current one."""
        device = self.order.device
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            kernel[grid](*operands, **constants)


def _tile(size: int, most: int) -> int:
    """A power of two that covers `size`, within what a matrix unit takes and `most`."""
    return min(most, max(LEAST, 1 << (size - 1).bit_length()))


def _line(rows: Tensor) -> int:
    return LINE_BYTES // rows.element_size()


def _arithmetic(operand: Tensor) -> dict[str, Any]:
    """fp32 is as exact as torch's own matrix products are set to be."""
    exact = torch.get_float32_matmul_precision() == "highest"
    widen = triton_kernels.INTERPRETED and operand.dtype == torch.bfloat16
    return {"precision": "ieee" if exact else "tf32", "widen": widen}
