"""Gathered sums against the dense product, and of no tokens."""

from __future__ import annotations

import pytest
import torch

from undense.ops.gathered_sum import gathered_sum


@pytest.mark.parametrize("tokens", [0, 1, 5])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_the_dense_product_with_its_gradients(
    tokens: int, weighted: bool, dtype: torch.dtype
) -> None:
    places = torch.tensor([[0, 3], [2, 1], [4, 0]])
    rows = torch.randn(5, tokens, dtype=dtype, requires_grad=True)
    weights = torch.randn(3, 2, dtype=dtype, requires_grad=True) if weighted else None
    y = gathered_sum(rows, places, weights)
    assert (y.shape, y.dtype) == ((3, tokens), dtype)
    factors = torch.ones(3, 2, dtype=dtype) if weights is None else weights
    wanted = (factors[..., None] * rows[places]).sum(1)
    off = 1e-2 if dtype == torch.bfloat16 else 1e-6
    assert torch.allclose(y, wanted, rtol=off, atol=off)
    leaves = [rows] if weights is None else [rows, weights]
    given = torch.randn_like(y)
    for got, right in zip(
        torch.autograd.grad(y, leaves, given),
        torch.autograd.grad(wanted, leaves, given),
        strict=True,
    ):
        assert torch.allclose(got, right, rtol=off, atol=off)
