"""Optimizer groups: decay on matrices only, and for structured maps a learning rate per factor.

A factor with fan-in f of a map with n factors and fan-in d learns at (d / f) / n of the rate, so
that an update of the map is as large as a dense one of the same rate. Source: Compute Better Spent,
https://arxiv.org/abs/2406.06248. Differs: relative to the rate of the dense map of that fan-in, not
to that of a small reference model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from undense.ops.linear_map import LinearMap
from undense.train.patterns import by_pattern

# Numbers that scale or shift a feature, a frequency or a term each, though kept in rows: pulled to
# zero they would change what a component is, not how large its weights are.
_POINTWISE = frozenset(
    {
        *("bias", "shift", "offset", "into", "out", "gain", "twist", "scale", "coefficients"),
        *("score", "temperature", "threshold", "sharpness", "residual", "amplitude", "frequency"),
        *("decay", "phase", "fade", "pattern_weight", "pattern_frequency", "pattern_shift"),
    }
)


def parameter_groups(
    model: nn.Module,
    *,
    rate: float,
    decay: float,
    factor_rates: bool,
    rates: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Every trainable parameter of `model` once, in groups of equal `lr` and `weight_decay`.

    lr = `rate` x the factor's multiplier (with `factor_rates`) x that of `rates`, by pattern of the
    name; where neither speaks of a parameter, `rate`. Raises `UndenseError` for a pattern without a
    match.
    """
    multipliers = factor_multipliers(model) if factor_rates else {}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    asked = by_pattern(list(trained), rates or {}, "rates")
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in trained.items():
        decayed = decay if is_matrix(name, parameter) else 0.0
        lr = rate * multipliers.get(name, 1.0) * asked.get(name, 1.0)
        groups[lr, decayed].append(parameter)
    return [
        {"params": members, "lr": lr, "weight_decay": weight_decay}
        for (lr, weight_decay), members in groups.items()
    ]


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a product sums over it: embeddings, projections, factors, filters, blocks of neurons;
    not biases, norms, gates, temperatures and gains, however many dimensions they are kept in."""
    last = name.rpartition(".")[2]
    return parameter.ndim >= 2 and last not in _POINTWISE and not last.endswith("_bias")


def factor_multipliers(model: nn.Module) -> dict[str, float]:
    """(d / f) / n for every factor of a structured map in `model`, by parameter name.

    A router, which scores blocks and adds nothing to the stream, is none: it learns at the rate.
    """
    found: dict[str, float] = {}
    for name, linear in outermost_maps(model):
        factors = {k: p for k, p in linear.named_parameters() if is_matrix(k, p)}
        for key, factor in factors.items():
            found[f"{name}.{key}"] = linear.fan_in / factor.shape[-1] / len(factors)
    return found


def outermost_maps(model: nn.Module) -> Iterator[tuple[str, LinearMap]]:
    """The structured maps of `model` that are no part of another one, by path; routers left out."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if isinstance(module, LinearMap) and not name.startswith(inside):
            inside = (*inside, f"{name}.")
            if name.rpartition(".")[2] != "router":
                yield name, module
