"""Optimizer groups: nothing is lost, matrices alone decay, factors learn at their own rates."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import undense.ffn  # noqa: F401  (registers the components)
from undense.contract import DenseShape, build, component_class, components
from undense.errors import UndenseError
from undense.ops.block_linear import BlockLinear
from undense.ops.low_rank import LowRankLinear
from undense.ops.monarch import MonarchLinear
from undense.ops.sparse_linear import SparseLinear
from undense.train.groups import factor_multipliers, is_matrix, parameter_groups
from undense.train.scales import factor_scale, scale_


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


def test_gains_between_the_factors_are_no_factor() -> None:
    """A filter between two factors: a number a frequency and channel, in two columns."""
    linear = nn.ModuleDict({"map": MonarchLinear(32, 64, blocks=2, bias=False)})
    linear["map"].register_parameter("gain", nn.Parameter(torch.ones(17, 2)))
    assert factor_multipliers(linear) == {"map.first.weight": 1.0, "map.last.weight": 1.0}
    assert told(linear)["map.gain"] == (1.0, 0.0)


def told(model: nn.Module, **more: object) -> dict[str, tuple[float, float]]:
    """(multiplier of the rate, decay) by parameter name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, rate=1.0, decay=0.1, factor_rates=True, **more)  # type: ignore[arg-type]
    return {names[p]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}


def test_which_parameter_of_token_chosen_blocks_gets_what() -> None:
    cls = component_class("block_topk")
    config = cls.Config(hidden=128, shared=8, block=8, chosen=2, rank=4)  # type: ignore[call-arg]
    assert told(build(32, config)) == {
        "temperature": (1.0, 0.0),
        "up": (1.0, 0.1),
        "down": (1.0, 0.1),
        "up_bias": (1.0, 0.0),
        "bias": (1.0, 0.0),
        "router.first.weight": (1.0, 0.1),
        "router.last.weight": (1.0, 0.1),
        "router.last.bias": (1.0, 0.0),
        "shared_up.weight": (1.0, 0.1),
        "shared_up.bias": (1.0, 0.0),
        "shared_down.weight": (1.0, 0.1),
    }


def test_which_parameter_of_the_composition_gets_what() -> None:
    found = told(build(64, component_class("ultra").fitted(DenseShape(dim=64, hidden=256))))
    scalars = {name for name, (_, decay) in found.items() if decay == 0.0}
    assert {"gates.spectral", "gates.micro", "gates.projection"} <= scalars
    assert {"norm_in.weight", "stages.micro.into", "stages.spectral.gain"} <= scalars
    assert all(found[name][0] == 1.0 for name in scalars)
    # 4 blocks of a map of fan-in 64, and of one of fan-in 256; one factor each
    assert found["stages.projection.up.weight"] == (4.0, 0.1)
    assert found["stages.projection.down.weight"] == (4.0, 0.1)


@pytest.mark.parametrize("name", list(components()))
def test_what_decays_in_any_component_is_a_product(name: str) -> None:
    component = build(64, component_class(name).fitted(DenseShape(dim=64, hidden=256)))
    for path, parameter in component.named_parameters():
        if is_matrix(path, parameter):
            assert path.rpartition(".")[2] in ("weight", "up", "down"), path
            assert min(parameter.shape[-2:]) > 1, path


def test_rates_by_pattern_multiply_and_the_last_match_counts(model: nn.Module) -> None:
    found = told(model, rates={"low_rank.*": 3.0, "*.last.*": 0.5})
    assert found["low_rank.first.weight"] == (3.0 * 32 / 32 / 2, 0.1)
    assert found["low_rank.last.weight"] == (0.5 * 32 / 8 / 2, 0.1)
    assert found["low_rank.last.bias"] == (0.5, 0.0)
    assert found["norm.weight"] == (1.0, 0.0)


def test_a_pattern_without_a_match_is_refused_with_near_misses(model: nn.Module) -> None:
    with pytest.raises(UndenseError, match=r"rates: 'monach\.\*' matches no.*monarch"):
        told(model, rates={"monach.*": 2.0})
    with pytest.raises(UndenseError, match=r"scales: 'gate' matches no parameter"):
        scale_(model, factor_scales=False, scales={"gate": 0.0})


def test_a_factor_starts_by_its_fans(model: nn.Module) -> None:
    """By hand: min(1, sqrt(fan-out / fan-in)) of the factor."""
    assert factor_scale(model) == {
        "dense.weight": 1.0,
        "block.weight": 1.0,
        "monarch.first.weight": 1.0,
        "monarch.last.weight": min(1.0, (64 / model["monarch"].last.fan_in) ** 0.5),  # type: ignore[index]
        "low_rank.first.weight": (8 / 32) ** 0.5,
        "low_rank.last.weight": 1.0,
    }
    sparse = nn.ModuleDict({"map": SparseLinear(64, 16, blocks=2, bias=True, keep=0.5)})
    assert factor_scale(sparse) == {"map.values": 0.5}


def test_the_start_is_multiplied_and_nothing_else_moves(model: nn.Module) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scale_(model, factor_scales=True, scales={"dense.*": 0.0, "low_rank.first.*": 2.0})
    for name, value in model.state_dict().items():
        factor = {"dense.weight": 0.0, "low_rank.first.weight": 1.0}.get(name, 1.0)
        torch.testing.assert_close(value, factor * before[name])
