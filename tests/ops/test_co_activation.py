"""Cutting neurons into blocks: found where there are blocks to find, near the optimum elsewhere."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment

from undense.ops.co_activation import balanced, best, co_active
from undense.ops.regression import Ridge


def test_assignment_is_balanced_and_near_the_optimum() -> None:
    gain = torch.randn(96, 5) @ torch.randn(5, 12) + 0.3 * torch.randn(96, 12)
    label = balanced(gain, 8)
    assert (torch.bincount(label, minlength=12) == 8).all()
    rows, places = linear_sum_assignment(gain.repeat_interleave(8, 1).numpy(), maximize=True)
    optimum = gain[rows, places // 8].sum()
    assert gain.gather(1, label[:, None]).sum() >= 0.97 * optimum


def test_assignment_of_equal_gains_is_balanced() -> None:
    assert (torch.bincount(balanced(torch.zeros(12, 3), 4)) == 4).all()
    assert (balanced(torch.zeros(4, 1), 4) == 0).all()


def test_planted_blocks_are_found() -> None:
    """Six groups of neurons, each loud on the tokens of its own direction of the input."""
    inputs = torch.randn(1500, 24)
    group = torch.arange(48)[torch.randperm(48)] % 6
    loud = (inputs @ torch.linalg.qr(torch.randn(24, 6)).Q > 1.0).float()
    energy = loud[:, group] * (0.5 + torch.rand(1500, 48)) + 1e-3 * torch.rand(1500, 48)
    order = co_active(inputs, Ridge(inputs), energy, size=8, k=2)
    assert (order.sort().values == torch.arange(48)).all()
    for block in group[order].view(6, 8):
        assert (block == block[0]).all()


def test_best_marks_the_largest() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]])
    assert best(scores, 2).tolist() == [[1, 0, 1], [0, 1, 1]]
