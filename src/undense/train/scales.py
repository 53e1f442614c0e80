"""How large parameters start: by factor of a structured map, and by pattern of their names.

A factor of fan-in f and fan-out g starts at min(1, sqrt(g / f)) of what keeps the RMS, so that what
narrows (a contraction, the first thin factor) does not start with more spectral norm than what
widens. Source: Compute Better Spent, https://arxiv.org/abs/2406.06248, its std of 1/sqrt(f) x
min(1, sqrt(g / f)). Differs: a multiplier of each component's own start, which is 1/sqrt(f) where
the component says nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from undense.ops.linear_map import BlockMap
from undense.train.groups import outermost_maps
from undense.train.patterns import by_pattern


def scale_(model: nn.Module, *, factor_scales: bool, scales: Mapping[str, float]) -> None:
    """Multiply the initial values of `model` in place: of factors (with `factor_scales`), then of
    what `scales` names by pattern. Raises `UndenseError` for a pattern without a match."""
    parameters = dict(model.named_parameters())
    factors = factor_scale(model) if factor_scales else {}
    asked = by_pattern(list(parameters), scales, "scales")
    with torch.no_grad():
        for name, parameter in parameters.items():
            scale = factors.get(name, 1.0) * asked.get(name, 1.0)
            if scale != 1.0:
                parameter.mul_(scale)


def factor_scale(model: nn.Module) -> dict[str, float]:
    """min(1, sqrt(fan-out / fan-in)) for every factor of a structured map, by parameter name; of a
    block-diagonal factor those of a block, whose ratio is that of the whole."""
    found: dict[str, float] = {}
    for name, linear in outermost_maps(model):
        for inner, factor in linear.named_modules():
            if isinstance(factor, BlockMap):
                path = f"{name}.{inner}" if inner else name
                for key, parameter in factor.named_parameters(recurse=False):
                    if parameter.ndim >= 2:
                        ratio = factor.fan_out / factor.fan_in
                        found[f"{path}.{key}"] = min(1.0, math.sqrt(ratio))
    return found
