"""The products over pairs of a token and a block, by the compiled library."""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from undense.errors import UndenseError
from undense.kernels.choice import plain_wins
from undense.kernels.library import ACTIVATIONS, address, native
from undense.kernels.pairs import Pairs, ReferencePairs, require_one_dtype


@final
class NativePairs(Pairs):
    """By `kernels/*.inc`: rows are read where they lie; sums are fp32; the order of every sum
    is the same for any number of threads."""

    def __init__(self, chosen: Tensor, blocks: int, library: ctypes.CDLL) -> None:
        """`chosen` (tokens, k): numbers of blocks."""
        assert chosen.dtype == torch.int64
        self.chosen = chosen = chosen.contiguous()
        self.tokens, k = chosen.shape
        self.blocks = blocks
        self.library = library
        self.order = chosen.new_empty(chosen.numel())
        self.token = torch.empty_like(self.order)
        self.offsets = chosen.new_empty(blocks + 1)
        places = map(address, (chosen, self.offsets, self.order, self.token))
        wrong = library.undense_group(self.tokens, k, blocks, *places)
        if wrong >= 0:
            raise UndenseError(
                f"chosen block {chosen.flatten()[wrong].item()} does not exist; there are {blocks}"
            )

    def gather_dot(self, rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        require_one_dtype(rows, matrix, bias)
        if self._plain_wins("gather_dot", matrix):
            return self._plain.gather_dot(rows, matrix, bias)
        out = rows.new_empty(len(self.order), matrix.shape[1], dtype=torch.float32)
        bias = None if bias is None else bias.contiguous()
        self._run("gather_dot", matrix, rows.contiguous(), matrix.contiguous(), bias, out)
        return out

    def scatter_add(self, values: Tensor, matrix: Tensor) -> Tensor:
        if self._plain_wins("scatter_add", matrix):
            return self._plain.scatter_add(values, matrix)
        y = values.new_zeros(self.tokens, matrix.shape[2], dtype=torch.float32)
        self._run("scatter_add", matrix, values.float().contiguous(), matrix.contiguous(), y)
        return y.to(matrix.dtype)

    def outer_sum(self, values: Tensor, rows: Tensor) -> Tensor:
        if self._plain_wins("outer_sum", rows):
            return self._plain.outer_sum(values, rows)
        grad = rows.new_empty(self.blocks, values.shape[1], rows.shape[1])
        self._run("outer_sum", grad, values.float().contiguous(), rows.contiguous(), grad)
        return grad

    def bent(self, inner: Tensor, size: int, gates: Tensor, activation: str) -> Tensor:
        """hidden (pairs, size) = act(inner) * gate, or act(first half) * second half * gate.

        `inner` (pairs, size or 2 * size), `gates` (tokens, k), `activation` one of ACTIVATIONS."""
        hidden = inner.new_empty(len(inner), size)
        gated, number = inner.shape[1] != size, ACTIVATIONS.index(activation)
        gates = gates.float().contiguous()
        places = map(address, (inner, gates, self.order, hidden))
        self.library.undense_bent_f32(
            len(inner), size, gated, number, *places, torch.get_num_threads()
        )
        return hidden

    def bent_backward(
        self, given: Tensor, inner: Tensor, gates: Tensor, activation: str
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`bent` again, and, given the gradient of its result over the gates, those of `inner`, of
        the gates (tokens, k) and, summed by block, of a bias of `inner`."""
        size, width = given.shape[1], inner.shape[1]
        gates = gates.float().contiguous()
        hidden, to_inner, to_gates = map(torch.empty_like, (given, inner, gates))
        to_bias = inner.new_empty(self.blocks, width)
        operands = (self.offsets, inner, given, gates, self.order)
        places = map(address, (*operands, hidden, to_inner, to_gates, to_bias))
        number = ACTIVATIONS.index(activation)
        self.library.undense_bent_backward_f32(
            self.blocks, size, width != size, number, *places, torch.get_num_threads()
        )
        return hidden, to_inner, to_gates, to_bias

    def _plain_wins(self, name: str, matrix: Tensor) -> bool:
        return plain_wins(name, matrix.dtype, matrix.shape[-1], len(self.order) // self.blocks)

    @cached_property
    def _plain(self) -> ReferencePairs:
        """The same pairs in plain PyTorch."""
        sizes: list[int] = self.offsets.diff().tolist()
        return ReferencePairs.sorted_as(self.chosen, self.order, self.token, sizes)

    def _run(self, name: str, matrix: Tensor, *operands: Tensor | None) -> None:
        _, width, dim = matrix.shape
        places = map(address, (self.offsets, self.token, *operands))
        native(name, matrix.dtype)(self.blocks, dim, width, *places, torch.get_num_threads())
