"""Plain dense: the branches that the contract tests run besides the defaults, and a polynomial in
the place of the host's activation."""

from __future__ import annotations

from dataclasses import replace

import torch
from random_hosts import dense_ffn, inputs

import undense.ffn
from undense.contract import Statistics, from_dense

Config = undense.ffn.Dense.Config

VARIANTS = [
    Config(hidden=37, activation="relu2", bias=False),
    Config(activation="chebyshev_gelu"),
]


def test_a_chebyshev_activation_stands_for_the_hosts_from_the_start() -> None:
    """Of inputs that the start did not see; identity shows what the activation is worth."""
    dense, rows = dense_ffn(24, 96), inputs(24, 3000)
    fitted, fresh = Statistics(inputs=rows[:2000]), rows[2000:]
    wanted = dense(fresh)
    errors = {}
    for activation in ("chebyshev_gelu", "identity"):
        ffn = from_dense(dense, Config(activation=activation), fitted)
        errors[activation] = float((ffn(fresh) - wanted).detach().square().sum())
    scale = float((wanted - wanted.mean(0)).square().sum())
    assert errors["chebyshev_gelu"] < 1e-4 * scale < 0.01 * errors["identity"]


def test_the_same_neurons_without_biases_are_copied_not_fitted() -> None:
    """T5's FFN has none: the same size gives the same function, bit by bit."""
    whole = replace(dense_ffn(24, 96), up_bias=None, down_bias=None, activation="relu")
    rows = inputs(24, 200)
    ffn = from_dense(
        whole, Config(hidden=96, activation="relu", bias=False), Statistics(inputs=rows)
    )
    assert torch.equal(ffn(rows), whole(rows))
