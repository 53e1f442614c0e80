"""Factored projections: the branches that the contract tests run besides the defaults."""

from __future__ import annotations

import pytest
import torch

import undense.ffn
from undense.contract import DenseFFN, Statistics, abstract_cost, from_dense
from undense.errors import UndenseError

Config = undense.ffn.TensorFactor.Config

VARIANTS = [
    Config(blocks=3, hidden=96, gated=True, activation="silu"),
    Config(factor="monarch", blocks=2, hidden=96, bias=False, activation="relu"),
    Config(factor="monarch", blocks=4, gated=True),
    Config(factor="filtered", blocks=4, gated=True, bias=False),
    Config(factor="filtered", blocks=2, hidden=90, keep=0.5),
    Config(factor="low_rank", rank=5, gated=True),
    Config(factor="kronecker", terms=3),
    Config(factor="block+low_rank", blocks=4, rank=4),
    Config(factor="kronecker+block", blocks=2, terms=2, bias=False, gated=True),
    Config(factor="block", blocks=2, keep=0.25, activation="chebyshev_gelu"),
    Config(factor="monarch", blocks=2, hidden=96, keep=0.5),
    Config(factor="kronecker+low_rank", rank=8, terms=2, keep=0.5),
]


KINDS = ["block", "monarch", "filtered", "low_rank", "kronecker"]
SUMS = ["block+low_rank", "monarch+low_rank", "kronecker+block", "kronecker+low_rank+block"]


@pytest.mark.parametrize("keep", [1.0, 0.5])
@pytest.mark.parametrize("factor", [*KINDS, *SUMS])
def test_every_structure_starts_close_to_the_dense_ffn(factor: str, keep: float) -> None:
    """Closer than the same structure whose factors were drawn and only the last one refitted."""
    torch.manual_seed(0)
    dense = DenseFFN(
        up=torch.randn(64, 16) * 0.25,
        up_bias=torch.randn(64) * 0.1,
        down=torch.randn(16, 64) * 0.125,
        down_bias=torch.randn(16),
        activation="gelu_tanh",
    )
    rows = torch.randn(1500, 16) * torch.logspace(0, -1, 16)
    wanted = dense(rows)
    config = Config(factor=factor, blocks=2, rank=4, terms=3, keep=keep, hidden=64)
    started = from_dense(dense, config, Statistics(inputs=rows))
    error = (started(rows) - wanted).square().mean()
    drawn = undense.ffn.TensorFactor(16, config)
    drawn.down.refit_(drawn.neurons(rows).detach(), wanted)
    assert error < (drawn(rows) - wanted).square().mean()
    assert error < 0.6 * wanted.var(0).mean()


def test_a_sum_is_no_worse_a_start_than_its_parts() -> None:
    torch.manual_seed(0)
    dense = DenseFFN(
        up=torch.randn(64, 16) * 0.25,
        down=torch.randn(16, 64) * 0.125,
        down_bias=torch.zeros(16),
        activation="gelu_tanh",
    )
    rows = torch.randn(1500, 16) * torch.logspace(0, -1, 16)
    errors = {}
    for factor in ("block", "low_rank", "block+low_rank"):
        config = Config(factor=factor, blocks=2, rank=3, hidden=64)
        got = from_dense(dense, config, Statistics(inputs=rows))(rows)
        errors[factor] = float((got - dense(rows)).square().mean().detach())
    assert errors["block+low_rank"] < 0.9 * min(errors["block"], errors["low_rank"])


def test_sparse_factors_cost_their_share() -> None:
    whole = abstract_cost(768, Config(factor="low_rank", rank=192, bias=False))
    tenth = abstract_cost(768, Config(factor="low_rank", rank=192, bias=False, keep=0.125))
    products = whole.forward - whole.part("activation").forward
    assert tenth.forward - tenth.part("activation").forward == products // 8
    assert tenth.useful == tenth.forward


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factor": "tucker"}, "unknown kind 'tucker'"),
        ({"factor": "block+block"}, "names a kind twice"),
        ({"keep": 0.0}, "keep=0.0 must be above 0"),
        ({"rank": 0}, "rank=0 must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UndenseError, match=message):
        Config(**settings)  # type: ignore[arg-type]
