"""The products over pairs of a token and a block, by the compiled library."""

from __future__ import annotations

import ctypes
from typing import Any, final

import torch
from torch import Tensor

from undense.errors import UndenseError
from undense.kernels.library import kernels
from undense.kernels.pairs import Pairs, ReferencePairs

SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}


def grouped(chosen: Tensor, matrix: Tensor) -> Pairs:
    """The pairs of `chosen` (tokens, k) with the blocks of `matrix` (blocks, width, dim), by the
    fastest path there is for its device and dtype."""
    library = kernels().library
    if library is not None and matrix.device.type == "cpu" and matrix.dtype in SUFFIX:
        return NativePairs(chosen, len(matrix), library)
    return ReferencePairs(chosen, len(matrix))


@final
class NativePairs(Pairs):
    """By `chosen_blocks.cpp`: nothing is gathered into copies; sums are fp32; the order of every
    sum is the same for any number of threads."""

    def __init__(self, chosen: Tensor, blocks: int, library: ctypes.CDLL) -> None:
        """`chosen` (tokens, k): numbers of blocks."""
        chosen = chosen.contiguous()
        self.tokens, k = chosen.shape
        self.blocks = blocks
        self.library = library
        self.order = torch.empty(chosen.numel(), dtype=torch.int64)
        self.token = torch.empty_like(self.order)
        self.offsets = torch.empty(blocks + 1, dtype=torch.int64)
        wrong = _call(
            library.undense_group,
            *(self.tokens, k, blocks, chosen, self.offsets, self.order, self.token),
        )
        if wrong >= 0:
            raise UndenseError(
                f"chosen block {chosen.flatten()[wrong].item()} does not exist; there are {blocks}"
            )

    def gather_dot(self, rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        out = torch.empty(len(self.order), matrix.shape[1])
        bias = None if bias is None else bias.contiguous()
        self._run("gather_dot", matrix, rows.contiguous(), matrix.contiguous(), bias, out)
        return out

    def scatter_add(self, values: Tensor, matrix: Tensor) -> Tensor:
        y = torch.zeros(self.tokens, matrix.shape[2])
        self._run("scatter_add", matrix, values.float().contiguous(), matrix.contiguous(), y)
        return y.to(matrix.dtype)

    def outer_sum(self, values: Tensor, rows: Tensor) -> Tensor:
        grad = rows.new_empty(self.blocks, values.shape[1], rows.shape[1])
        self._run("outer_sum", grad, values.float().contiguous(), rows.contiguous(), grad)
        return grad

    def _run(self, name: str, matrix: Tensor, *operands: Tensor | None) -> None:
        _, width, dim = matrix.shape
        _call(
            getattr(self.library, f"undense_{name}_{SUFFIX[matrix.dtype]}"),
            *(self.blocks, dim, width, self.offsets, self.token, *operands),
            threads=torch.get_num_threads(),
        )


def _call(function: Any, *arguments: int | Tensor | None, threads: int | None = None) -> Any:
    """Sizes as 64-bit integers, tensors by address, None as a null pointer; threads last."""
    given = [
        ctypes.c_int64(value) if isinstance(value, int)
        else ctypes.c_void_p(None if value is None else value.data_ptr())
        for value in arguments
    ]  # fmt: skip
    if threads is not None:
        given.append(ctypes.c_int(threads))
    return function(*given)
