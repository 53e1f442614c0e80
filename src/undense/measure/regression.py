"""A straight line through repeated measurements, with Student's intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from undense.measure.intervals import quantile


@dataclass(frozen=True)
class Line:
    """y = height + slope (x - middle), by least squares; `noise`: the standard deviation about it,
    of `points` measurements whose x have the sum of squares `spread` about their middle."""

    middle: float
    height: float
    slope: float
    noise: float
    points: int
    spread: float

    @classmethod
    def through(cls, x: Sequence[float], y: Sequence[float]) -> Line:
        """Three measurements at least, at two x at least."""
        at, values = (np.asarray(numbers, dtype=np.float64) for numbers in (x, y))
        assert len(at) == len(values) >= 3 and len(set(x)) >= 2, "a line needs more points"
        middle, height = float(at.mean()), float(values.mean())
        spread = float(((at - middle) ** 2).sum())
        slope = float(((at - middle) * (values - height)).sum()) / spread
        left = values - height - slope * (at - middle)
        noise = math.sqrt(float((left**2).sum()) / (len(at) - 2))
        return cls(middle, height, slope, noise, len(at), spread)

    def at(self, x: float) -> float:
        return self.height + self.slope * (x - self.middle)

    def reach(self, x: float) -> float:
        """Half the width of the 95 % interval of the line itself at x, were it straight."""
        of_mean = 1 / self.points + (x - self.middle) ** 2 / self.spread
        return quantile(self.points - 2) * self.noise * math.sqrt(of_mean)

    @property
    def slope_reach(self) -> float:
        """Half the width of the 95 % interval of the slope."""
        return quantile(self.points - 2) * self.noise / math.sqrt(self.spread)

    def where(self, y: float) -> float:
        """The x at which the line has the height y."""
        return self.middle + (y - self.height) / self.slope
