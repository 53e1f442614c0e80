"""Sizing a component to a share of the FLOPs of the dense FFN that it replaces."""

from __future__ import annotations

import math

from undense.contract import Config, DenseShape, abstract_cost, component_class, config_from_dict
from undense.errors import UndenseError


def dense_config(shape: DenseShape) -> Config:
    """The config of the dense FFN of this shape: what every share refers to."""
    return config_from_dict(
        {
            "component": "gated_dense" if shape.gated else "dense",
            "hidden": shape.hidden,
            "activation": shape.activation,
            "bias": shape.bias,
        }
    )


def dense_flops(shape: DenseShape) -> int:
    """Forward FLOPs for one token of the dense FFN of this shape."""
    return abstract_cost(shape.dim, dense_config(shape)).forward


def at_share(config: Config, shape: DenseShape, percent: float) -> Config:
    """`config` with its sizing knob at the largest step whose FLOPs do not exceed the share.

    Raises `UndenseError` where even the smallest step costs more, naming what it costs.
    """
    budget = dense_flops(shape) * percent / 100
    cls = component_class(config.component)

    def flops(size: int) -> float:
        try:
            return abstract_cost(shape.dim, cls.sized(config, shape.dim, size)).forward
        except UndenseError:
            if size == 1:
                raise
            return math.inf  # past the last size that this width allows

    if (least := flops(1)) > budget:
        raise UndenseError(
            f"{config.component}: {percent:g} % of the dense FFN is {budget:.0f} FLOPs a token at"
            f" dim={shape.dim}, hidden={shape.hidden}, but its smallest size costs {least:.0f};"
            f" ask for at least {100 * least / dense_flops(shape):.1f} %"
        )
    if flops(2) <= least:
        raise UndenseError(
            f"{config.component}: its cost does not grow with its size, so no share of the dense"
            " FLOPs can be asked of it"
        )
    fits, exceeds = (1, 2)
    while flops(exceeds) <= budget:
        fits, exceeds = (exceeds, 2 * exceeds)
    while exceeds - fits > 1:
        middle = (fits + exceeds) // 2
        fits, exceeds = (middle, exceeds) if flops(middle) <= budget else (fits, middle)
    if math.isinf(flops(exceeds)) and flops(fits) < 0.95 * budget:
        raise UndenseError(
            f"{config.component}: its largest size at dim={shape.dim} costs"
            f" {100 * flops(fits) / dense_flops(shape):.1f} % of the dense FFN; {percent:g} % was"
            " asked for"
        )
    return cls.sized(config, shape.dim, fits)
