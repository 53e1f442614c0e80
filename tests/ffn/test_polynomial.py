"""Sparse polynomials: the branches that the contract tests run besides the defaults."""

from __future__ import annotations

import undense.ffn

Config = undense.ffn.SparsePolynomial.Config

VARIANTS = [
    Config(poly_degree=1),
    Config(poly_degree=5, poly_keep_ratio=0.1),
]
