"""Terms chosen in training: the contract variants, and the choice itself."""

from __future__ import annotations

import pytest
import torch

from undense.contract import DenseFFN, Statistics, from_dense
from undense.errors import UndenseError
from undense.ffn import LearnedPolynomial

Config = LearnedPolynomial.Config

VARIANTS = [
    Config(poly_degree=1),
    Config(poly_degree=5, poly_keep_ratio=0.1),
]


def test_training_moves_the_choice_to_the_terms_that_matter() -> None:
    """A target of two terms a degree, none of which is kept at first, is found and fitted."""
    wanted = torch.tensor([[5, 11], [4, 9]])
    config = Config(poly_degree=2, poly_keep_ratio=2 / 12)
    target, component = LearnedPolynomial(12, config).eval(), LearnedPolynomial(12, config)
    target.selection.score.data = torch.zeros(2, 12).scatter(1, wanted, 1.0)
    target.weight.data.normal_()
    assert not torch.isin(component.channels(), wanted).any()
    optimizer = torch.optim.AdamW(component.parameters(), lr=0.02, weight_decay=0.0)
    for _ in range(400):
        x = torch.randn(64, 12)
        loss = (component(x) - target(x).detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert component.channels().tolist() == wanted.tolist()
    x = torch.randn(256, 12)
    error = (component(x) - target(x)).square().mean() / target(x).var(0).mean()
    assert error < 0.05


def moved(dim: int) -> LearnedPolynomial:
    component = LearnedPolynomial(dim, Config(poly_degree=3, poly_keep_ratio=0.2))
    component.selection.score.data.normal_()
    component.weight.data.normal_()
    component.scale.data.normal_()
    return component


def test_training_and_inference_compute_the_same() -> None:
    component, x = moved(21).double(), torch.randn(7, 21, dtype=torch.float64)
    # the choice is fp32's or fp64's alike; zero times the others is exactly zero
    assert torch.allclose(component.train()(x), component.eval()(x), atol=1e-12)


def test_what_is_out_is_neither_read_nor_paid_for_at_inference() -> None:
    component, x = moved(20).eval(), torch.randn(5, 20)
    before = component(x)
    hidden = torch.ones(3, 20, dtype=torch.bool).scatter(1, component.channels(), False)
    component.weight.data[hidden] = float("nan")
    assert torch.equal(component(x), before)
    assert component.cost(5).part("mix").macs == 5 * 3 * 4 * 20
    assert component.cost(5).forward < component.train().cost(5).forward


def test_the_start_keeps_the_terms_that_carry_the_output() -> None:
    up = torch.zeros(3, 15)
    up[torch.arange(3), torch.tensor([2, 9, 13])] = 1.0
    dense = DenseFFN(up=up, down=torch.randn(15, 3), activation="relu2")
    config = Config(poly_degree=2, poly_keep_ratio=0.2)
    ffn = from_dense(dense, config, Statistics(inputs=torch.randn(2000, 15)))
    assert isinstance(ffn, LearnedPolynomial)
    assert ffn.channels().tolist() == [[2, 9, 13]] * 2


def test_a_choice_without_alternatives_is_refused() -> None:
    with pytest.raises(UndenseError, match=r"keeps all 4 channels of a degree; use at most 0\.75"):
        LearnedPolynomial(4, Config(poly_keep_ratio=0.9))
    with pytest.raises(UndenseError, match=r"poly_keep_ratio=1.*use 'polynomial'"):
        Config(poly_keep_ratio=1.0)
