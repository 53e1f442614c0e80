"""Structured linear maps against the dense matrices that they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from undense.errors import UndenseError
from undense.ops.block_linear import BlockLinear
from undense.ops.linear_map import LinearMap
from undense.ops.low_rank import LowRankLinear
from undense.ops.monarch import MonarchLinear, shuffle


def whole(linear: LinearMap) -> torch.Tensor:
    """The dense matrix (fan_out, fan_in) of a map, read off its action on the unit vectors."""
    with torch.no_grad():
        unit = torch.eye(linear.fan_in)
        return (linear(unit) - linear(torch.zeros_like(unit))).T


@pytest.mark.parametrize(("fan_in", "fan_out", "blocks"), [(12, 20, 4), (15, 9, 3), (7, 5, 1)])
def test_block_linear_is_a_block_diagonal_matrix(fan_in: int, fan_out: int, blocks: int) -> None:
    linear = BlockLinear(fan_in, fan_out, blocks=blocks, bias=True)
    expected = torch.block_diag(*linear.weight.data)
    assert torch.allclose(whole(linear), expected, atol=1e-6)
    x = torch.randn(3, 2, fan_in)
    assert torch.allclose(linear(x), nn.functional.linear(x, expected, linear.bias), atol=1e-5)


def test_monarch_reaches_every_output_from_every_input() -> None:
    assert (whole(MonarchLinear(32, 64, blocks=4, bias=False)) != 0).all()


def test_monarch_tiles_have_the_rank_that_the_blocks_allow() -> None:
    matrix = whole(MonarchLinear(32, 64, blocks=4, bias=False))
    tiles = matrix.unflatten(0, (4, 16)).unflatten(2, (4, 8)).transpose(1, 2)
    ranks = torch.linalg.matrix_rank(tiles, rtol=1e-4)
    assert ranks.unique().tolist() == [2]  # 32 / 4^2


@pytest.mark.parametrize("blocks", [2, 4])
@pytest.mark.parametrize(("fan_in", "fan_out"), [(32, 64), (64, 32), (32, 32)])
def test_monarch_projection_recovers_a_monarch_matrix(
    blocks: int, fan_in: int, fan_out: int
) -> None:
    target = MonarchLinear(fan_in, fan_out, blocks=blocks, bias=False)
    inputs = torch.randn(500, fan_in) @ torch.randn(fan_in, fan_in)
    found = MonarchLinear(fan_in, fan_out, blocks=blocks, bias=False)
    found.approximate_(whole(target), None, inputs.T @ inputs / 500)
    assert torch.allclose(whole(found), whole(target), atol=1e-3)


def test_shuffle_undoes_itself_with_the_group_size() -> None:
    x = torch.randn(3, 24)
    assert torch.equal(shuffle(shuffle(x, 4), 6), x)


def test_low_rank_start_is_the_best_of_its_rank_on_the_inputs() -> None:
    weight = torch.randn(20, 16)
    inputs = torch.randn(800, 16) @ (torch.randn(16, 16) * torch.logspace(0, -2, 16))
    gram = inputs.T @ inputs / 800
    linear = LowRankLinear(16, 20, rank=4, bias=False)
    linear.approximate_(weight, None, gram)
    error = ((whole(linear) - weight) @ inputs.T).square().sum()
    # Brute force: the singular values of what the weight does to this sample.
    singular = torch.linalg.svdvals(weight.double() @ inputs.T.double())
    assert error == pytest.approx(float(singular[4:].square().sum()), rel=1e-3)


def test_block_start_is_the_least_squares_optimum() -> None:
    weight = torch.randn(8, 12)
    inputs = torch.randn(600, 12) @ torch.randn(12, 12)
    linear = BlockLinear(12, 8, blocks=2, bias=False)
    linear.approximate_(weight, None, inputs.T @ inputs / 600)
    for k in range(2):
        own = inputs[:, 6 * k : 6 * k + 6]
        best = torch.linalg.lstsq(own, inputs @ weight.T[:, 4 * k : 4 * k + 4]).solution
        assert torch.allclose(linear.weight.data[k], best.T, atol=1e-3)


@pytest.mark.parametrize("kind", ["block", "monarch", "low_rank"])
def test_refit_reaches_targets_that_the_last_factor_can_express(kind: str) -> None:
    linear: LinearMap = {
        "block": BlockLinear(16, 16, blocks=4, bias=True),
        "monarch": MonarchLinear(16, 16, blocks=2, bias=True),
        "low_rank": LowRankLinear(16, 16, rank=8, bias=True),
    }[kind]
    inputs = torch.randn(2000, 16)
    with torch.no_grad():
        targets = linear(inputs) + 0.5
        last = linear if isinstance(linear, BlockLinear) else linear.last  # type: ignore[union-attr]
        last.reset()  # type: ignore[union-attr, operator]
        linear.refit_(inputs, targets)
        assert (linear(inputs) - targets).square().mean() < 1e-4 * targets.var()


def test_indivisible_widths_name_what_would_divide() -> None:
    with pytest.raises(UndenseError, match=r"15 -> 20: blocks=4 .*\[1, 5\]"):
        BlockLinear(15, 20, blocks=4, bias=False)
    with pytest.raises(UndenseError, match="divisible by blocks squared"):
        MonarchLinear(24, 24, blocks=4, bias=False)
