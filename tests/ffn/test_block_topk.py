"""Token-chosen blocks: the branches that the contract tests run besides the defaults."""

from __future__ import annotations

import undense.ffn

Config = undense.ffn.BlockTopK.Config

VARIANTS = [
    Config(block=8, chosen=5, rank=4, balance=0.0),
    Config(block=12, chosen=4, shared=0.5, gated=True, bias=False, activation="silu"),
]
