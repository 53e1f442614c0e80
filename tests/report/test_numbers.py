"""Numbers read as people write them."""

from __future__ import annotations

import pytest

from undense.report import numbers
from undense.report.run import Spread

THIN = numbers.THIN


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (5317, f"5.32{THIN}k"),
        (12_345, f"12.3{THIN}k"),
        (597_696, f"598{THIN}k"),
        (5_151_744, f"5.15{THIN}M"),
        (6_738_415_616, f"6.74{THIN}G"),
    ],
)
def test_short(value: float, text: str) -> None:
    assert numbers.short(value) == text


def test_ticks_carry_no_zeros() -> None:
    assert [numbers.tick(v) for v in (0, 50, 10_000, 2_500_000)] == [
        "0",
        "50",
        f"10{THIN}k",
        f"2.5{THIN}M",
    ]


def test_times_change_their_unit() -> None:
    assert numbers.duration(0.8712) == f"0.871{THIN}ms"
    assert numbers.duration(706.4) == f"706{THIN}ms"
    assert numbers.duration(2310.0) == f"2.31{THIN}s"


def test_signs_are_real_and_nothing_is_negative_zero() -> None:
    assert numbers.signed(-0.0123) == "−0.012"
    assert numbers.signed(0.0123) == "+0.012"
    assert numbers.signed(-0.0001) == "±0.000"


def test_changes_and_intervals() -> None:
    assert numbers.change(0.25) == f"−75{THIN}%"
    assert numbers.change(1.04) == f"+4{THIN}%"
    spread = Spread(center=0.0, low=-0.01, high=0.02)
    assert numbers.interval(spread, sign=True) == "[−0.010, +0.020]"
    assert not spread.clears(0)


def test_words() -> None:
    assert numbers.listed(["a"]) == "a"
    assert numbers.listed(["a", "b", "c"]) == "a, b and c"
    assert numbers.counted(1, "token") == "one token"
    assert numbers.counted(5, "seed") == "five seeds"
    assert numbers.counted(512, "token") == "512 tokens"
