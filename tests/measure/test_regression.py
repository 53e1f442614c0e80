"""Lines through repeated measurements against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from undense.measure.regression import Line


@pytest.fixture
def points() -> tuple[list[float], list[float]]:
    generator = np.random.default_rng(0)
    x = [1.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 4.0]
    return x, [3.0 - 0.7 * at + 0.1 * generator.standard_normal() for at in x]


def test_slope_and_interval_are_scipys(points: tuple[list[float], list[float]]) -> None:
    line, wanted = Line.through(*points), stats.linregress(*points)
    assert line.slope == pytest.approx(wanted.slope, rel=1e-12)
    assert line.at(0.0) == pytest.approx(wanted.intercept, rel=1e-12)
    t = stats.t.ppf(0.975, len(points[0]) - 2)
    assert line.slope_reach == pytest.approx(t * wanted.stderr, rel=1e-6)
    assert line.reach(0.0) == pytest.approx(t * wanted.intercept_stderr, rel=1e-6)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    x = [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    hits = 0
    for _ in range(2000):
        line = Line.through(x, [2 * at + generator.standard_normal() for at in x])
        hits += abs(line.at(5.0) - 10.0) <= line.reach(5.0)
    assert hits / 2000 == pytest.approx(0.95, abs=0.015)


def test_where_inverts_at(points: tuple[list[float], list[float]]) -> None:
    line = Line.through(*points)
    assert line.where(line.at(1.7)) == pytest.approx(1.7)
