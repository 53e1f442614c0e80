"""Means over paired seeds with Student's interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

LEVEL = 0.95


def summary(values: Sequence[float]) -> dict[str, Any]:
    """`mean`, and `ci95`: mean -/+ t(0.975, n - 1) s / sqrt(n); None for a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "ci95": None}
    reach = quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "ci95": [mean - reach, mean + reach]}


def paired(one: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """The differences one - other, seed by seed, with their summary."""
    differences = [a - b for a, b in zip(one, other, strict=True)]
    return {"differences": differences, **summary(differences)}


def quantile(freedom: int) -> float:
    """t with P(|T| <= t) = 0.95 for Student's T with `freedom` degrees of freedom.

    T = sqrt(freedom) tan(a) turns the density into cos(a)^(freedom - 1) on a finite interval, which
    the trapezoidal rule integrates to far more digits than an interval of a few seeds has.
    """
    angles = np.linspace(0, np.pi / 2, 20_001)
    density = np.cos(angles) ** (freedom - 1)
    steps = (density[1:] + density[:-1]) / 2
    share = np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum()
    return math.sqrt(freedom) * math.tan(float(np.interp(LEVEL, share, angles)))
