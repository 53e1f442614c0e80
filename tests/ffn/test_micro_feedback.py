"""Gated low-rank feedback: the branches that the contract tests run, and what is left untouched."""

from __future__ import annotations

import torch

from undense.ffn import MicroFeedback

Config = MicroFeedback.Config

VARIANTS = [
    Config(micro_steps=3, groups=4, rank=2),
    Config(micro_steps=1, micro_keep_ratio=1.0),
]


def test_other_features_are_neither_read_nor_written_bit_exactly() -> None:
    component = MicroFeedback(48, Config(groups=3))
    other = torch.ones(48, dtype=torch.bool)
    other[component.selected] = False
    x = torch.randn(5, 48)
    y = component(x)
    assert torch.equal(y[:, other], torch.zeros(5, int(other.sum())))
    assert (y[:, ~other] != 0).all()
    x[:, other] = float("nan")
    assert torch.equal(component(x), y)


def test_groups_see_themselves_only() -> None:
    component = MicroFeedback(48, Config(groups=3))
    x = torch.randn(5, 48)
    y = component(x)
    own = component.selected.chunk(3)
    x[:, own[1]] += 1
    changed = (component(x) != y).any(0)
    assert changed[own[1]].all() and not changed[own[0]].any() and not changed[own[2]].any()
