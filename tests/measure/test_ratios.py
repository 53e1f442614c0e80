"""Ratios of times, FLOPs and bytes, on times made by hand."""

from __future__ import annotations

import pytest

from undense.measure.ratios import amdahl, realised, speedup, times_less, yardstick
from undense.measure.timing import Timing


def timing(*samples: float) -> Timing:
    return Timing(samples_ms=samples, calls_per_sample=1, threads=1)


def test_speedup_is_of_medians_and_its_spread_of_rounds() -> None:
    dense, arm = timing(8, 10, 12, 40, 9), timing(2, 5, 4, 10, 3)
    found = speedup(dense, arm)
    assert found["speedup"] == 10 / 4
    assert found["speedup_iqr"] == pytest.approx([3, 4])  # of 4, 2, 3, 4, 3


def test_realised_is_the_speedup_over_what_was_promised() -> None:
    assert times_less(100, 25) == 4
    assert realised(3.0, 4.0) == 0.75
    assert times_less(100, 0) is None
    assert realised(3.0, None) is None


def test_the_yardstick_is_the_faster_one() -> None:
    times = {"eager": timing(5, 5), "compiled": timing(4, 4), "arm": timing(1, 1)}
    assert yardstick(times, ("eager", "compiled")) == "compiled"
    assert yardstick({"arm": timing(1, 1)}, ("eager", "compiled")) is None


def test_amdahl() -> None:
    assert amdahl(0.5, 0.0) == 2
    assert amdahl(0.6, 0.25) == pytest.approx(1 / 0.55)
    assert amdahl(0.3, 1.0) == pytest.approx(1)
    assert amdahl(1.0, 0.0) is None
