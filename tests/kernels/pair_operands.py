"""What the tests of every class of pairs compute, and on what."""

from __future__ import annotations

import torch
from torch import Tensor

from undense.kernels.pairs import Pairs


def products(pairs: Pairs, rows: Tensor, matrix: Tensor, bias: Tensor | None) -> list[Tensor]:
    inner = pairs.gather_dot(rows, matrix, bias)
    values = torch.linspace(-1, 1, inner.numel(), dtype=inner.dtype).view_as(inner)
    return [inner, pairs.scatter_add(values, matrix), pairs.outer_sum(values, rows)]


def operands(
    tokens: int, blocks: int, k: int, width: int, dim: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.rand(tokens, blocks).topk(k, 1).indices,
        torch.randn(tokens, dim).to(dtype),
        torch.randn(blocks, width, dim).to(dtype),
        torch.randn(blocks, width).to(dtype),
    )
