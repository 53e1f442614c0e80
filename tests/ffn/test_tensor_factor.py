"""Factored projections: the branches that the contract tests run besides the defaults."""

from __future__ import annotations

import undense.ffn

Config = undense.ffn.TensorFactor.Config

VARIANTS = [
    Config(blocks=3, hidden=96, gated=True, activation="silu"),
    Config(factor="monarch", blocks=2, hidden=96, bias=False, activation="relu"),
    Config(factor="monarch", blocks=4, gated=True),
]
