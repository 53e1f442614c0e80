"""Micro-refinement: the contract variants, what is left untouched, which features it selects."""

from __future__ import annotations

import pytest
import torch

from undense.contract import DenseFFN, Statistics, from_dense
from undense.ffn import SparseMicroRefine

Config = SparseMicroRefine.Config

VARIANTS = [
    Config(micro_steps=1, micro_keep_ratio=1.0),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_other_features_are_neither_read_nor_written_bit_exactly(
    training: bool, dtype: torch.dtype
) -> None:
    component = SparseMicroRefine(48, Config(micro_steps=3)).to(dtype).train(training)
    other = torch.ones(48, dtype=torch.bool)
    other[component.selected] = False
    assert int(other.sum()) == 36
    x = torch.randn(5, 48).to(dtype)
    y = component(x)
    assert torch.equal(y[:, other], torch.zeros(5, 36, dtype=dtype))
    assert (y[:, ~other] != 0).all()
    assert torch.equal((x + y)[:, other], x[:, other]), "the residual stream goes on as it was"
    x[:, other] = float("nan")
    x.requires_grad_()
    again = component(x)
    assert torch.equal(again, y)
    again[:, ~other].sum().backward()
    assert x.grad is not None and torch.equal(x.grad[:, other], torch.zeros(5, 36, dtype=dtype))
    assert (x.grad[:, ~other] != 0).all()


def test_a_feature_is_refined_by_itself_step_by_step() -> None:
    component = SparseMicroRefine(20, Config(micro_steps=3, micro_keep_ratio=0.2)).double()
    for parameter in component.parameters():
        parameter.data.normal_()
    x = torch.randn(4, 20, dtype=torch.float64)
    expected = torch.zeros_like(x)
    for place, feature in enumerate(component.selected.tolist()):
        state = x[:, feature]
        for into, shift, out, offset in zip(
            *(p.detach()[:, place] for p in component.parameters()), strict=True
        ):
            inner = into * state + shift
            state = state + out * inner / (1 + (-inner).exp()) + offset
        expected[:, feature] = state - x[:, feature]
    assert torch.allclose(component(x), expected, atol=1e-12)


def test_the_start_selects_the_features_that_steps_of_their_own_explain() -> None:
    """Neurons of three features write to themselves; the rest of the output is another's business:
    every other feature gets what a shuffled one says, which no step of its own can follow."""
    own = torch.tensor([3, 10, 19])
    shuffled = torch.tensor([f for f in range(24) if f not in own.tolist()])
    down = torch.zeros(24, 24)
    down[own, own] = 1.0
    down[shuffled, shuffled.roll(1)] = 3.0
    dense = DenseFFN(up=torch.eye(24), down=down, activation="silu")
    rows = torch.randn(4000, 24)
    component = from_dense(dense, Config(micro_keep_ratio=3 / 24), Statistics(inputs=rows))
    assert isinstance(component, SparseMicroRefine)
    assert component.selected.tolist() == own.tolist()
    assert torch.allclose(component(rows)[:, own], dense(rows)[:, own], atol=0.05)
