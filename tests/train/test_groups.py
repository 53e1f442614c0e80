"""Optimizer groups: nothing is lost, matrices alone decay, factors learn at their own rates."""

from __future__ import annotations

import pytest
from torch import nn

from undense.ops.block_linear import BlockLinear
from undense.ops.low_rank import LowRankLinear
from undense.ops.monarch import MonarchLinear
from undense.train.groups import factor_multipliers, parameter_groups


@pytest.fixture
def model() -> nn.Module:
    return nn.ModuleDict(
        {
            "norm": nn.LayerNorm(32),
            "dense": BlockLinear(32, 64, blocks=1, bias=True),
            "block": BlockLinear(32, 64, blocks=4, bias=False),
            "monarch": MonarchLinear(32, 64, blocks=2, bias=True),
            "low_rank": LowRankLinear(32, 64, rank=8, bias=True),
        }
    )


def test_every_parameter_is_in_one_group(model: nn.Module) -> None:
    for factor_rates in (False, True):
        groups = parameter_groups(model, rate=1e-3, decay=0.1, factor_rates=factor_rates)
        members = [id(p) for group in groups for p in group["params"]]
        assert sorted(members) == sorted(id(p) for p in model.parameters())


def test_matrices_alone_decay(model: nn.Module) -> None:
    for group in parameter_groups(model, rate=1e-3, decay=0.1, factor_rates=True):
        assert all((p.ndim >= 2) == (group["weight_decay"] == 0.1) for p in group["params"])


def test_frozen_parameters_are_left_out(model: nn.Module) -> None:
    model["dense"].requires_grad_(False)  # type: ignore[index]
    groups = parameter_groups(model, rate=1e-3, decay=0.1, factor_rates=False)
    assert not any(p is model["dense"].weight for g in groups for p in g["params"])  # type: ignore[index]


def test_a_factor_learns_by_its_own_fan_in(model: nn.Module) -> None:
    """By hand: (fan-in of the map / fan-in of the factor) / number of factors."""
    assert factor_multipliers(model) == {
        "dense.weight": 1.0,
        "block.weight": 32 / 8,
        "monarch.first.weight": 32 / 16 / 2,
        "monarch.last.weight": 32 / 16 / 2,
        "low_rank.first.weight": 32 / 32 / 2,
        "low_rank.last.weight": 32 / 8 / 2,
    }
