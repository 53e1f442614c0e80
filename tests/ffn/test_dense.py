"""Plain dense: the branches that the contract tests run besides the defaults."""

from __future__ import annotations

import undense.ffn

Config = undense.ffn.Dense.Config

VARIANTS = [
    Config(hidden=37, activation="relu2", bias=False),
]
