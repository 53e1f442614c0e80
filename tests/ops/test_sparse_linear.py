"""Sparse factors against dense matrices with zeros in them."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from test_linear_maps import loss, second_moment, whole

from undense.errors import UndenseError
from undense.ops.sparse_linear import SparseLinear


def scattered(linear: SparseLinear) -> torch.Tensor:
    """The dense matrix with the stored values in their columns."""
    empty = linear.values.new_zeros(linear.fan_out, linear.fan_in)
    return empty.scatter_add(1, linear.columns.long(), linear.values.data)


def test_it_is_a_matrix_with_so_many_entries_a_row() -> None:
    linear = SparseLinear(12, 20, blocks=1, bias=True, keep=0.25)
    matrix = scattered(linear)
    assert ((matrix != 0).sum(1) == 3).all()
    x = torch.randn(2, 5, 12)
    assert torch.allclose(linear(x), x @ matrix.T + linear.bias, atol=1e-6)
    assert torch.allclose(whole(linear), matrix, atol=1e-6)


def test_every_entry_stays_in_its_block() -> None:
    for linear in (
        SparseLinear(12, 20, blocks=4, bias=False, keep=0.67),
        SparseLinear(12, 20, blocks=4, bias=False, keep=0.67),
    ):
        linear.set_blocks_(torch.randn(4, 5, 3))
        allowed = torch.block_diag(*torch.ones(4, 5, 3))
        assert (scattered(linear)[allowed == 0] == 0).all()
        assert ((scattered(linear) != 0).sum(1) == 2).all()


def test_the_largest_entries_of_each_row_are_kept() -> None:
    weight = torch.randn(1, 9, 8)
    linear = SparseLinear(8, 9, blocks=1, bias=False, keep=0.375)
    linear.set_blocks_(weight)
    smallest = weight[0].abs().sort(1).values[:, 4:5]
    assert torch.equal(scattered(linear), weight[0] * (weight[0].abs() > smallest))


def test_gradients_are_those_of_the_dense_matrix_at_the_stored_places() -> None:
    linear = SparseLinear(8, 9, blocks=1, bias=False, keep=0.5).double()
    x = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(6, 9, dtype=torch.float64)
    got = torch.autograd.grad((linear(x) * upstream).sum(), [x, linear.values])
    dense = scattered(linear).detach().requires_grad_()
    expected = torch.autograd.grad((x @ dense.T * upstream).sum(), [x, dense])
    assert torch.allclose(got[0], expected[0], atol=1e-12)
    assert torch.allclose(got[1], expected[1].gather(1, linear.columns.long()), atol=1e-12)


def test_values_are_the_least_squares_of_their_columns() -> None:
    weight, gram = torch.randn(6, 10), second_moment(10)
    linear = SparseLinear(10, 6, blocks=1, bias=False, keep=0.4)
    linear.approximate_(weight, None, gram)
    for o, columns in enumerate(linear.columns.long()):
        own = gram.double()[columns][:, columns]
        best = torch.linalg.solve(own, gram.double()[columns] @ weight[o].double())
        assert torch.allclose(linear.values[o].double(), best, atol=1e-3)


def test_columns_are_nearly_the_best_that_there_are() -> None:
    """Brute force over every choice of 2 of 6 columns; magnitude times RMS is a heuristic, on
    independent inputs the optimum."""
    weight = torch.randn(5, 6)
    gram = torch.diag(torch.rand(6) + 0.1)
    linear = SparseLinear(6, 5, blocks=1, bias=False, keep=1 / 3)
    linear.approximate_(weight, None, gram)
    for o in range(5):
        losses = []
        for columns in combinations(range(6), 2):
            row = torch.zeros(1, 6)
            row[0, list(columns)] = weight[o, list(columns)]
            losses.append(loss(row, weight[o : o + 1], gram))
        found = loss(whole(linear)[o : o + 1], weight[o : o + 1], gram)
        assert found == pytest.approx(min(losses), rel=1e-4)


def test_nothing_but_the_stored_entries_has_a_weight() -> None:
    linear = SparseLinear(64, 32, blocks=1, bias=False, keep=0.125)
    assert [p.numel() for p in linear.parameters()] == [32 * 8]
    cost = linear.cost("map", 7)
    assert cost.forward == cost.useful == 2 * 7 * 32 * 8


def test_a_share_outside_its_range_is_refused() -> None:
    with pytest.raises(UndenseError, match=r"keep=0 must be above 0"):
        SparseLinear(8, 8, blocks=1, bias=False, keep=0)
