"""Structured linear maps against the dense matrices that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from undense.errors import UndenseError
from undense.ops.block_linear import BlockLinear
from undense.ops.filtered import FilteredLinear
from undense.ops.linear_map import LinearMap
from undense.ops.low_rank import LowRankLinear
from undense.ops.monarch import MonarchLinear, shuffle
from undense.ops.regression import whitened_svd
from undense.ops.structured import Structure


def whole(linear: LinearMap) -> torch.Tensor:
    """The dense matrix (fan_out, fan_in) of a map, read off its action on the unit vectors."""
    with torch.no_grad():
        unit = torch.eye(linear.fan_in)
        return (linear(unit) - linear(torch.zeros_like(unit))).T


def second_moment(width: int) -> torch.Tensor:
    """Of correlated inputs."""
    mixing = torch.randn(width, width) * torch.logspace(0, -1, width)
    return mixing.T @ mixing


def loss(found: torch.Tensor, wanted: torch.Tensor, gram: torch.Tensor) -> float:
    """Mean squared error of the outputs for inputs of this second moment."""
    left = found - wanted
    return float(((left @ gram) * left).sum())


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


def test_monarch_projection_beats_the_tiles_alone() -> None:
    """The last factor is solved over all tiles: no tile-wise SVD is closer on correlated inputs."""
    weight, gram = torch.randn(32, 32), second_moment(32)
    linear = MonarchLinear(32, 32, blocks=2, bias=False)
    linear.approximate_(weight, None, gram)
    tiles = torch.zeros(32, 32)
    for rows in (slice(0, 16), slice(16, 32)):
        for columns in (slice(0, 16), slice(16, 32)):
            out, into = whitened_svd(weight[rows, columns], gram[columns, columns], 8)
            tiles[rows, columns] = out @ into
    assert loss(whole(linear), weight, gram) < 0.99 * loss(tiles, weight, gram)


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


@pytest.mark.parametrize("outputs", [10, 30])
def test_whitened_svd_is_the_same_with_and_without_the_root(outputs: int) -> None:
    """Fewer outputs than inputs take the shorter way; both are the truncated SVD of W G^(1/2)."""
    weight, gram = torch.randn(outputs, 20).double(), second_moment(20).double()
    out, into = whitened_svd(weight, gram, 6)
    values, vectors = torch.linalg.eigh(gram)
    root = (vectors * values.sqrt()) @ vectors.T
    left, singular, right = torch.linalg.svd(weight @ root, full_matrices=False)
    best = (left[:, :6] * singular[:6]) @ right[:6]
    assert torch.allclose(out @ into @ root, best, atol=1e-6)
    assert torch.allclose(out.norm(dim=0), singular[:6].sqrt(), rtol=1e-6)


def test_low_rank_product_has_the_variance_of_its_widths() -> None:
    variance = whole(LowRankLinear(300, 500, rank=40, bias=False)).var()
    assert variance == pytest.approx(1 / 800, rel=0.1)


@pytest.mark.parametrize("kind", ["block", "monarch", "filtered", "low_rank"])
def test_refit_reaches_targets_that_the_last_factor_can_express(kind: str) -> None:
    linear: LinearMap = {
        "block": BlockLinear(16, 16, blocks=4, bias=True),
        "monarch": MonarchLinear(16, 16, blocks=2, bias=True),
        "filtered": FilteredLinear(16, 16, blocks=2, bias=True),
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


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("keep", [1.0, 0.75])
@pytest.mark.parametrize("kinds", ["block", "monarch", "filtered", "low_rank", "kronecker"])
def test_a_refit_leaves_no_slope(kinds: str, keep: float, bias: bool) -> None:
    """Inputs and targets have means: without a bias, a map fitted on centred ones would not be
    the one of least squares."""
    structure = Structure(kinds=kinds, blocks=2, rank=6, terms=3, keep=keep)
    x, y = torch.randn(500, 16) + 2, torch.randn(500, 12) - 3
    linear = structure.build(16, 12, bias=bias)
    last = getattr(linear, "last", linear)
    weight = last.weight if keep == 1 else last.values

    def slope() -> float:
        linear.zero_grad()
        (linear(x) - y).square().mean().backward()
        return float(weight.grad.norm())

    before = slope()
    with torch.no_grad():
        linear.refit_(x, y)
    assert slope() < 0.005 * before


@pytest.mark.parametrize(("fan_in", "fan_out"), [(12, 20), (20, 12), (15, 15)])
def test_filtered_is_its_factors_around_a_circulant_matrix(fan_in: int, fan_out: int) -> None:
    """By hand: numpy's FFT of the features, every bin times its own two-by-two response."""
    linear = FilteredLinear(fan_in, fan_out, blocks=1, bias=True).double()
    nn.init.normal_(linear.gain)
    nn.init.normal_(linear.twist)
    x = torch.randn(7, fan_in, dtype=torch.float64)
    mid = min(fan_in, fan_out)
    bins = np.fft.rfft(linear.first(x).detach().numpy())
    filtered = np.zeros_like(bins)
    for k in range(1, (mid - 1) // 2 + 1):
        (g, h), (s, t) = linear.gain[k - 1].tolist(), linear.twist[k - 1].tolist()
        real, imaginary = bins[:, k].real, bins[:, k].imag
        filtered[:, k] = g * real + s * imaginary + 1j * (h * imaginary + t * real)
    wanted = linear.last(torch.from_numpy(np.fft.irfft(filtered, n=mid)))
    assert torch.allclose(linear(x), wanted, atol=1e-12)


def test_a_filtered_start_mixes_its_blocks_and_keeps_the_rms() -> None:
    linear = FilteredLinear(64, 64, blocks=4, bias=False)
    assert (whole(linear) != 0).all()
    x = torch.randn(4000, 64)
    assert linear.features(x).square().mean().item() == pytest.approx(1, rel=0.15)


def test_a_filtered_start_is_better_than_solving_its_last_factor_alone() -> None:
    weight, gram = torch.randn(24, 24), second_moment(24)
    linear = FilteredLinear(24, 24, blocks=4, bias=False)
    with torch.no_grad():
        linear._solve_last(weight, gram)
        errors = []
        for _ in range(2):
            left = weight - whole(linear)
            errors.append(((left @ gram) * left).sum().item())
            linear.approximate_(weight, None, gram)
    assert errors[1] < 0.8 * errors[0]
