"""Frequencies chosen in training: the contract variants, and the choice itself."""

from __future__ import annotations

import pytest
import torch

from undense.errors import UndenseError
from undense.ffn import LearnedSpectral
from undense.ops.spectrum import Basis

Config = LearnedSpectral.Config

VARIANTS = [
    Config(k_freq=5, basis="cosine"),
    Config(k_freq=5, basis="eigen"),
]


def trained(component: LearnedSpectral, target: LearnedSpectral, steps: int = 250) -> None:
    optimizer = torch.optim.AdamW(component.parameters(), lr=0.02, weight_decay=0.0)
    for _ in range(steps):
        x = torch.randn(32, component.dim)
        loss = (component(x) - target(x).detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("basis", ["fourier", "cosine"])
def test_training_moves_the_choice_to_the_frequencies_that_matter(basis: Basis) -> None:
    wanted = torch.tensor([6, 9, 13])
    target = LearnedSpectral(33, Config(k_freq=3, basis=basis)).eval()
    names = target.transform.names()
    target.selection.score.data = torch.isin(names, wanted).float()[None]
    target.gain.data.fill_(1.0)  # each of the three matters alike
    component = LearnedSpectral(33, Config(k_freq=3, basis=basis))
    before = component.kept
    assert not set(before) & set(wanted.tolist())
    trained(component, target)
    assert component.kept == wanted.tolist()
    x = torch.randn(64, 33)
    error = (component(x) - target(x)).square().mean() / target(x).square().mean()
    assert error < 0.05


@pytest.mark.parametrize("dim", [48, 47])
@pytest.mark.parametrize("basis", ["fourier", "cosine", "eigen"])
def test_training_and_inference_compute_the_same(basis: Basis, dim: int) -> None:
    component = LearnedSpectral(dim, Config(k_freq=3, basis=basis))
    component.selection.score.data = torch.randn_like(component.selection.score)
    component.gain.data.normal_()
    x = torch.randn(7, dim)
    assert torch.allclose(component.train()(x), component.eval()(x), atol=1e-5)


def test_what_is_out_is_neither_read_nor_paid_for_at_inference() -> None:
    component = LearnedSpectral(48, Config(k_freq=3)).eval()
    x = torch.randn(5, 48)
    before = component(x)
    out = torch.ones(component.transform.frequencies, dtype=torch.bool)
    out[component.selection.kept()[0]] = False
    component.gain.data[out] = float("nan")
    assert torch.equal(component(x), before)
    rows = 2 * 3  # cosine and sine of three frequencies
    assert component.cost(5).part("analysis").forward == 5 * 2 * rows * 48
    assert component.cost(5).forward < component.train().cost(5).forward


def test_a_choice_without_alternatives_is_refused() -> None:
    with pytest.raises(UndenseError, match=r"k_freq=23 leaves nothing to choose among the 23"):
        LearnedSpectral(48, Config(k_freq=23))
