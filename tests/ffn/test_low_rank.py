"""Low-rank FFNs: the nonlinearity at the waist, its closed-form start."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import undense.ffn
from undense.contract import DenseFFN, Statistics, from_dense
from undense.ops.regression import ridge
from undense.ops.waist import Waist

Config = undense.ffn.LowRank.Config

VARIANTS = [
    Config(rank=6, waist="chebyshev_gelu", activation="chebyshev_silu"),
    Config(rank=6, waist="gelu_tanh", activation="identity", bias=False),
]


def test_the_waist_is_where_the_formula_says() -> None:
    ffn = undense.ffn.LowRank(16, Config(rank=4, hidden=24, waist="silu", activation="relu"))
    x = torch.randn(3, 16)
    (b, a, a_bias, d, c, c_bias) = (
        ffn.up.first.weight[0],  # type: ignore[index]
        ffn.up.last.weight[0],  # type: ignore[index]
        ffn.up.last.bias,
        ffn.down.first.weight[0],  # type: ignore[index]
        ffn.down.last.weight[0],  # type: ignore[index]
        ffn.down.last.bias,
    )
    silu = nn.functional.silu
    hidden = torch.relu(silu(x @ b.T) @ a.T + a_bias)
    assert torch.allclose(ffn(x), silu(hidden @ d.T) @ c.T + c_bias, atol=1e-6)


def test_both_factors_start_with_the_std_of_the_widths_and_the_rank() -> None:
    waist = Waist(300, 500, rank=64, activation="silu", bias=True)
    wanted = (64 * (300 + 500)) ** -0.25
    assert waist.first.weight.data.std() == pytest.approx(wanted, rel=0.03)
    assert waist.last.weight.data.std() == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "relu"])
def test_the_start_passes_a_low_rank_map_through_the_waist(activation: str) -> None:
    """A smooth nonlinearity does so at small scale, ReLU by both signs of half the directions."""
    inputs = torch.randn(2000, 24)
    targets = inputs @ (torch.randn(24, 3) @ torch.randn(3, 40)) + 1
    waist = Waist(24, 40, rank=6, activation=activation, bias=True)
    waist.fit_(inputs, targets)
    left = (waist(inputs).detach() - targets).square().sum()
    assert left < 0.01 * (targets - targets.mean(0)).square().sum()


def test_the_start_is_closer_than_random_directions() -> None:
    inputs = torch.randn(2000, 24) * torch.logspace(0, -1, 24)
    targets = torch.tanh(inputs @ torch.randn(24, 40))
    fitted = Waist(24, 40, rank=8, activation="silu", bias=True)
    fitted.fit_(inputs, targets)
    found = (fitted(inputs).detach() - targets).square().mean()
    for _ in range(10):
        features = nn.functional.silu(inputs @ torch.randn(24, 8))
        weight, shift = ridge(features, targets)
        assert found < (features @ weight + shift - targets).square().mean()


def test_a_start_from_dense_with_a_waist_is_nearly_as_close_as_without() -> None:
    dense = DenseFFN(
        up=torch.randn(96, 24) * 24**-0.5,
        up_bias=torch.randn(96) * 0.1,
        down=torch.randn(24, 96) * 96**-0.5,
        down_bias=torch.zeros(24),
        activation="gelu_tanh",
    )
    rows = torch.randn(4000, 24) * torch.logspace(0, -1, 24)
    wanted = dense(rows)
    errors = {}
    for waist in ("identity", "silu"):
        config = Config(rank=12, hidden=96, waist=waist)
        got = from_dense(dense, config, Statistics(inputs=rows))(rows).detach()
        errors[waist] = float((got - wanted).square().mean() / wanted.var(0).mean())
    assert errors["silu"] < 1.1 * errors["identity"] < 0.2
