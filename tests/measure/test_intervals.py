"""Student's interval against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from undense.measure.intervals import paired, quantile, summary


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 30, 200])
def test_the_quantile_is_that_of_scipy(freedom: int) -> None:
    assert quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-5)


def test_the_interval_of_a_mean() -> None:
    values = [3.1, 3.4, 2.9, 3.3]
    found = summary(values)
    wanted = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["ci95"] == pytest.approx(list(wanted), rel=1e-5)


def test_one_value_has_no_interval() -> None:
    assert summary([2.0]) == {"mean": 2.0, "ci95": None}


def test_pairing_takes_out_what_the_seeds_share() -> None:
    one, other = ([1.0, 2.0, 3.0], [0.9, 1.9, 2.9])
    found = paired(one, other)
    assert found["differences"] == pytest.approx([0.1, 0.1, 0.1])
    assert found["ci95"] == pytest.approx([0.1, 0.1])
    with pytest.raises(ValueError):
        paired([1.0], [1.0, 2.0])
