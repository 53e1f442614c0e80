"""Pairs of a token and a block of neurons, grouped by block, and the three products over them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor, nn

from undense.errors import UndenseError

# Up to so many pairs, reading single rows beats a matrix product and a scattered sum for each
# block (GPT-2's width, one thread: 0.13 against 0.22 ms at 23 pairs, level at about a hundred).
FEW_PAIRS = 96


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of what belongs to a pair and a neuron: at least fp32."""
    return torch.promote_types(dtype, torch.float32)


def require_one_dtype(rows: Tensor, matrix: Tensor, bias: Tensor | None) -> None:
    """Kernels read what lies at an address, whatever it is."""
    kinds = {tensor.dtype for tensor in (rows, matrix, bias) if tensor is not None}
    if len(kinds) > 1:
        raise UndenseError(
            f"token-chosen blocks: dtypes are mixed, {sorted(map(str, kinds))}; input, weights"
            " and biases must have one, or run under autocast"
        )


class Pairs(ABC):
    """`order` (pairs,): which number of the flattened (tokens, k) choice stands at each place.

    Sorted by block and, within one, by token. Values of a pair and a neuron are at least fp32.
    """

    order: Tensor

    @abstractmethod
    def gather_dot(self, rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        """v[p] = matrix[block of p] rows[token of p] + bias[block of p].

        `rows` (tokens, dim), `matrix` (blocks, width, dim), `bias` (blocks, width). Returns
        (pairs, width)."""

    @abstractmethod
    def scatter_add(self, values: Tensor, matrix: Tensor) -> Tensor:
        """y[t] = sum over the pairs p of t of matrix[block of p]^T values[p].

        `values` (pairs, width), `matrix` (blocks, width, dim). Returns (tokens, dim), the dtype of
        `matrix`."""

    @abstractmethod
    def outer_sum(self, values: Tensor, rows: Tensor) -> Tensor:
        """g[b] = sum over the pairs p of b of values[p] rows[token of p]^T.

        `values` (pairs, width), `rows` (tokens, dim). Returns (blocks, width, dim), the dtype of
        `rows`."""


@final
class ReferencePairs(Pairs):
    """In plain PyTorch: a product for each block, on any device and in any dtype."""

    def __init__(self, chosen: Tensor, blocks: int) -> None:
        """`chosen` (tokens, k): numbers of blocks."""
        flat = chosen.flatten()
        self.chosen = chosen
        self.order = flat.argsort(stable=True)
        self.token = self.order // max(1, chosen.shape[1])
        self.sizes: list[int] = torch.bincount(flat, minlength=blocks).tolist()

    @classmethod
    def sorted_as(
        cls, chosen: Tensor, order: Tensor, token: Tensor, sizes: list[int]
    ) -> ReferencePairs:
        """Of pairs that are sorted already; `sizes`: pairs of each block."""
        made = cls.__new__(cls)
        made.chosen, made.order, made.token, made.sizes = chosen, order, token, sizes
        return made

    def gather_dot(self, rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        out = rows.new_empty(len(self.order), matrix.shape[1])
        columns = matrix.transpose(1, 2).unbind(0)
        for block, (tokens, into) in enumerate(self._groups(out)):
            if len(tokens):
                seen = rows.index_select(0, tokens)
                if bias is None:
                    torch.mm(seen, columns[block], out=into)
                else:
                    torch.addmm(bias[block], seen, columns[block], out=into)
        return out.to(wide(out.dtype))

    def scatter_add(self, values: Tensor, matrix: Tensor) -> Tensor:
        values = values.to(matrix.dtype)
        if len(self.order) <= FEW_PAIRS:
            return self._summed_rows(values, matrix)
        y = matrix.new_zeros(len(self.chosen), matrix.shape[2])
        for (tokens, part), block in zip(self._groups(values), matrix.unbind(0), strict=True):
            if len(tokens):
                y.index_add_(0, tokens, part @ block)
        return y

    def outer_sum(self, values: Tensor, rows: Tensor) -> Tensor:
        values = values.to(rows.dtype)
        out = rows.new_zeros(len(self.sizes), values.shape[1], rows.shape[1])
        for block, (tokens, part) in enumerate(self._groups(values)):
            if len(tokens):
                torch.mm(part.T, rows.index_select(0, tokens), out=out[block])
        return out

    def _groups(self, values: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each block, the tokens and the values of its pairs."""
        return list(zip(self.token.split(self.sizes), values.split(self.sizes), strict=True))

    def _summed_rows(self, values: Tensor, matrix: Tensor) -> Tensor:
        """A weighted sum of the rows of the chosen blocks, none of them copied."""
        blocks, size, dim = matrix.shape
        tokens, k = self.chosen.shape
        weights = torch.empty_like(values).index_copy_(0, self.order, values)
        rows = self.chosen[..., None] * size + torch.arange(size, device=values.device)
        return nn.functional.embedding_bag(
            rows.view(tokens, k * size),
            matrix.view(blocks * size, dim),
            per_sample_weights=weights.view(tokens, k * size),
            mode="sum",
        )
