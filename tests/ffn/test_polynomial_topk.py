"""Channels chosen by each token: the contract variants, and the choice itself."""

from __future__ import annotations

import pytest
import torch
from numpy.polynomial.chebyshev import chebval

from undense.ffn import TokenPolynomial

Config = TokenPolynomial.Config

VARIANTS = [
    Config(poly_degree=1),
    Config(poly_degree=2, poly_keep_ratio=1.0),
    Config(poly_degree=6, poly_keep_ratio=0.05),
]


@pytest.mark.parametrize("degree", [1, 2, 5])
def test_output_is_each_tokens_own_channels_series(degree: int) -> None:
    ffn = TokenPolynomial(9, Config(poly_degree=degree, poly_keep_ratio=1 / 3)).double()
    ffn.scale.data.normal_()
    x = torch.randn(2, 4, 9, dtype=torch.float64)
    expected = ffn.bias.detach().expand_as(x).clone()
    for place in torch.cartesian_prod(torch.arange(2), torch.arange(4)).tolist():
        z = (x[tuple(place)] * ffn.scale).detach()
        for channel in z.abs().argsort(descending=True)[:3].tolist():
            u = float(z[channel] / (1 + z[channel] ** 2).sqrt())
            series = float(chebval(u, [0.0, *ffn.coefficients[:, channel].tolist()]))
            expected[tuple(place)] += series * ffn.weight[channel].detach()
    assert torch.allclose(ffn(x), expected, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_what_a_token_leaves_out_is_not_read(training: bool) -> None:
    ffn = TokenPolynomial(16, Config(poly_keep_ratio=0.25)).train(training)
    x = torch.randn(1, 16)
    before = ffn(x)
    out = torch.ones(16, dtype=torch.bool)
    out[ffn.channels(x)[0]] = False
    ffn.weight.data[out] = float("nan")
    ffn.coefficients.data[:, out] = float("nan")
    assert torch.equal(ffn(x), before) and torch.isfinite(before).all()
    others = -x  # the same sizes, the same channels
    assert torch.isfinite(ffn(others)).all()


def test_tokens_choose_by_themselves_and_pay_for_their_choice_alone() -> None:
    ffn = TokenPolynomial(64, Config(poly_keep_ratio=1 / 16))
    x = torch.zeros(64, 64).fill_diagonal_(3.0) + 0.01 * torch.randn(64, 64)
    assert ffn.channels(x)[:, 0].tolist() == list(range(64))
    assert ffn.cost(7).part("mix").macs == 7 * 4 * 64
    assert ffn.cost(7).part("series").macs == 7 * 4 * 3
