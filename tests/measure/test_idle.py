"""Useful FLOPs of somebody else's masked layers: products with a weight of zero are none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import undense.ffn  # noqa: F401 - registers the components
from undense.contract import build, component_class
from undense.measure.flops import count_flops

ROWS = 5
FULL = 2 * ROWS * 8 * 16


def mask() -> Tensor:
    """A quarter of 16 x 8 is kept."""
    kept = torch.zeros(16, 8)
    kept[:4] = 1
    return kept


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", mask())

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def pruned() -> nn.Module:
    return prune.custom_from_mask(nn.Linear(8, 16, bias=False), "weight", mask())


def baked() -> nn.Module:
    return prune.remove(pruned(), "weight")


def parametrized() -> nn.Module:
    layer = nn.Linear(8, 16, bias=False)
    return parametrize.register_parametrization(layer, "weight", Masked())


@pytest.mark.parametrize("make", [pruned, baked, parametrized])
def test_masked_layer_is_dispatched_whole_and_useful_in_part(make: type[nn.Module]) -> None:
    model = nn.Sequential(make(), nn.ReLU(), nn.Linear(16, 8, bias=False))
    count = count_flops(model, torch.randn(ROWS, 8), backward=True)
    masking = 0 if make is baked else 16 * 8
    assert count.forward == masking + FULL + ROWS * 16 + FULL
    # the zeros that ReLU and the mask made in the activations are no weights
    assert count.useful == count.forward - 3 * FULL // 4
    assert count.idle == 3 * FULL // 4


def test_bias_and_batched_and_convolved_weights() -> None:
    layer = nn.Linear(8, 16)
    blocks = nn.Parameter(torch.ones(2, 4, 8))
    filters = nn.Conv1d(4, 4, 3, groups=2, bias=False)
    with torch.no_grad():
        layer.weight.mul_(mask())
        blocks[0, 0] = 0
        filters.weight[0] = 0
    assert count_flops(layer, torch.randn(ROWS, 8)).idle == 3 * FULL // 4
    assert count_flops(filters, torch.randn(1, 4, 7)).idle == 2 * 5 * (2 * 3)

    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = blocks

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("tbi,bio->tbo", x, self.blocks)

    assert count_flops(Blocks(), torch.randn(ROWS, 2, 4)).idle == 2 * ROWS * 8


def test_dense_model_and_a_model_without_numbers_have_none() -> None:
    assert count_flops(nn.Linear(8, 16), torch.zeros(ROWS, 8)).idle == 0
    count = count_flops(pruned().to("meta"), torch.zeros(ROWS, 8, device="meta"))
    assert count.idle == 0


def test_component_says_itself_what_is_useful() -> None:
    component = build(16, component_class("dense").Config())
    with torch.no_grad():
        for parameter in component.parameters():
            parameter.zero_()
    count = count_flops(nn.Sequential(component), torch.randn(3, 16))
    assert count.idle == 0
    assert count.useful == component.cost(3).useful
