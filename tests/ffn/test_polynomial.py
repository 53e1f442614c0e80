"""Sparse polynomials: the branches that the contract tests run besides the defaults, and terms."""

from __future__ import annotations

import pytest
import torch
from numpy.polynomial.chebyshev import chebval

import undense.ffn
from undense.contract import DenseFFN, Statistics, from_dense

Config = undense.ffn.SparsePolynomial.Config

VARIANTS = [
    Config(poly_degree=1),
    Config(poly_degree=5, poly_keep_ratio=0.1),
]


def test_output_is_the_sum_of_the_kept_terms() -> None:
    ffn = undense.ffn.SparsePolynomial(10, Config(poly_degree=4)).double()
    x = torch.randn(3, 10, dtype=torch.float64)
    expected = torch.zeros_like(x)
    column = 0
    for k, (channels, scales) in enumerate(zip(ffn.channels, ffn.scale, strict=True), 1):
        for channel, scale in zip(channels.tolist(), scales, strict=True):
            z = (x[:, channel] * scale).detach()
            term = torch.as_tensor(chebval((z / (1 + z * z).sqrt()).numpy(), [0] * k + [1]))
            expected += term[:, None] * ffn.mix.weight[0, :, column]
            column += 1
    assert torch.allclose(ffn(x), expected, atol=1e-12)


def test_the_start_keeps_the_terms_that_carry_the_output_and_stores_no_others() -> None:
    """Of a dense FFN that reads four channels and no others, linearly."""
    up = torch.zeros(4, 20)
    up[torch.arange(4), torch.tensor([2, 9, 11, 17])] = 1.0
    dense = DenseFFN(up=up, down=torch.randn(20, 4), activation="relu2")
    rows = torch.randn(2000, 20)
    config = Config(poly_degree=2, poly_keep_ratio=0.2)
    ffn = from_dense(dense, config, Statistics(inputs=rows))
    assert isinstance(ffn, undense.ffn.SparsePolynomial)
    assert ffn.channels.tolist() == [[2, 9, 11, 17]] * 2
    assert ffn.mix.weight.numel() == 20 * 2 * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_input_is_too_large_for_a_gradient(dtype: torch.dtype) -> None:
    ffn = undense.ffn.SparsePolynomial(12, Config(poly_keep_ratio=1.0)).to(dtype)
    x = torch.full((1, 12), 100.0, dtype=dtype).requires_grad_()
    ffn(x).sum().backward()
    assert x.grad is not None and (x.grad != 0).all()
