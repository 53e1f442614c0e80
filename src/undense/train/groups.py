"""Optimizer groups: decay on matrices only, and for structured maps a learning rate per factor.

A factor with fan-in f of a map with n factors and fan-in d learns at (d / f) / n of the rate, so
that an update of the map is as large as a dense one of the same rate. Source: Compute Better Spent,
https://arxiv.org/abs/2406.06248. Differs: relative to the rate of the dense map of that fan-in, not
to that of a small reference model.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import nn

from undense.ops.linear_map import LinearMap


def parameter_groups(
    model: nn.Module, *, rate: float, decay: float, factor_rates: bool
) -> list[dict[str, Any]]:
    """Every trainable parameter of `model` once, in groups of equal `lr` and `weight_decay`."""
    multipliers = factor_multipliers(model) if factor_rates else {}
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = decay if parameter.ndim >= 2 else 0.0
            groups[rate * multipliers.get(name, 1.0), decayed].append(parameter)
    return [
        {"params": members, "lr": lr, "weight_decay": weight_decay}
        for (lr, weight_decay), members in groups.items()
    ]


def factor_multipliers(model: nn.Module) -> dict[str, float]:
    """(d / f) / n for every factor of a structured map in `model`, by parameter name."""
    found: dict[str, float] = {}
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if not isinstance(module, LinearMap) or name.startswith(inside):
            continue
        inside = (*inside, f"{name}.")
        factors = {k: p for k, p in module.named_parameters() if p.ndim >= 2}
        for key, factor in factors.items():
            found[f"{name}.{key}"] = module.fan_in / factor.shape[-1] / len(factors)
    return found
