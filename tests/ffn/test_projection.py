"""One linear map: the branches that the contract tests run besides the defaults."""

from __future__ import annotations

import undense.ffn

Config = undense.ffn.Projection.Config

VARIANTS = [
    Config(blocks=4, bias=False),
]
