"""What a causal mixer does with the future: nothing; and a control that leaks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from mixer_variants import DIM, NAMES, SHORT, TIME, every_config, randomised
from torch import Tensor

from undense.mixing import MixerConfig, default


def future_leak(function: Callable[[Tensor], Tensor], x: Tensor, place: int) -> tuple[float, float]:
    """How far tokens from `place` on move earlier outputs, and their gradient there, both relative
    to the largest there is."""
    x = x.requires_grad_()
    y = function(x)
    # An auxiliary loss injects the same gradient into every backward pass: the difference of two
    # passes is free of it.
    loss = y[:, :place].square().sum()
    (once,) = torch.autograd.grad(loss, x, retain_graph=True)
    (thrice,) = torch.autograd.grad(3 * loss, x)
    gradient = thrice - once
    changed = x.detach().clone()
    changed[:, place:] = torch.randn_like(changed[:, place:])
    moved = (function(changed) - y)[:, :place].abs().max()
    scale = y.abs().max()
    return (moved / scale).item(), (gradient[:, place:].abs().max() / gradient.abs().max()).item()


@every_config
@pytest.mark.parametrize("training", [False, True])
def test_no_output_depends_on_the_future(config: MixerConfig, training: bool) -> None:
    # A frame's transform spreads rounding over the whole frame: 1e-16 of it in fp64.
    mixer = randomised(config, torch.float64).train(training)

    def run(x: Tensor) -> Tensor:
        torch.manual_seed(1)  # the same noise and dropout in every call
        return mixer(x)[0]

    for place in (1, 8, 13, 24):
        x = torch.randn(1, TIME, DIM, dtype=torch.float64)
        value, gradient = future_leak(run, x, place)
        assert value <= 1e-12 and gradient <= 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_no_output_depends_on_the_future_in_fp32_at_the_default_sizes(name: str) -> None:
    mixer = randomised(default(name))
    value, gradient = future_leak(lambda x: mixer(x)[0], torch.randn(1, 200, DIM), 130)
    assert value <= 1e-6 and gradient <= 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_a_mixer_that_is_not_causal_leaks_by_the_same_measure(name: str) -> None:
    mixer = randomised(default(name, causal=False, **SHORT.get(name, {})))
    value, gradient = future_leak(lambda x: mixer(x)[0], torch.randn(1, TIME, DIM), 13)
    assert value > 1e-3 and gradient > 1e-3
