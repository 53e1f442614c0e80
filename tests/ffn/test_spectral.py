"""The spectral filter: the branches that the contract tests run besides the defaults."""

from __future__ import annotations

import undense.ffn

Config = undense.ffn.SparseSpectral.Config

VARIANTS = [
    Config(k_freq=5, basis="cosine"),
    Config(k_freq=5, basis="eigen"),
]
