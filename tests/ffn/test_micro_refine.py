"""Micro-refinement: the branches that the contract tests run besides the defaults."""

from __future__ import annotations

import undense.ffn

Config = undense.ffn.SparseMicroRefine.Config

VARIANTS = [
    Config(micro_steps=1, micro_keep_ratio=1.0),
]
