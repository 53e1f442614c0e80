"""Gated dense: the branches that the contract tests run besides the defaults."""

from __future__ import annotations

import undense.ffn

Config = undense.ffn.GatedDense.Config

VARIANTS = [
    Config(hidden=31, activation="gelu", bias=True),
    Config(activation="chebyshev_silu"),
]
