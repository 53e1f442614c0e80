"""How numbers are written in a report: short, signed with a real minus, never over-precise."""

from __future__ import annotations

from collections.abc import Sequence

from undense.report.run import Spread

MINUS = "\N{MINUS SIGN}"
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
THIN = "\N{NARROW NO-BREAK SPACE}"


def exact(value: float) -> str:
    """597,696."""
    return f"{value:,.0f}".replace("-", MINUS)


def tick(value: float) -> str:
    """A round number on an axis: 200,000 -> 200 k."""
    for size, unit in UNITS:
        if abs(value) >= size:
            return f"{value / size:g}{THIN}{unit}"
    return f"{value:g}"


def short(value: float) -> str:
    """597,696 -> 598 k; 5,151,744 -> 5.15 M."""
    for size, unit in UNITS:
        if abs(value) >= size:
            scaled = value / size
            digits = 0 if abs(scaled) >= 100 else 1 if abs(scaled) >= 10 else 2
            return f"{scaled:.{digits}f}{THIN}{unit}".replace("-", MINUS)
    return f"{value:.0f}".replace("-", MINUS)


def duration(milliseconds: float) -> str:
    """0.87 ms, 706 ms, 2.31 s."""
    if milliseconds < 999.5:
        return f"{milliseconds:.3g}{THIN}ms"
    return f"{milliseconds / 1000:.3g}{THIN}s"


def signed(value: float, digits: int = 3) -> str:
    """+0.021, −0.004, ±0.000 where nothing is left after rounding."""
    text = f"{value:+.{digits}f}"
    if float(text) == 0:
        return f"±{abs(float(text)):.{digits}f}"
    return text.replace("-", MINUS)


def percent(share: float, digits: int = 0) -> str:
    """0.249 -> 25 %."""
    return f"{100 * share:.{digits}f}{THIN}%".replace("-", MINUS)


def change(ratio: float, digits: int = 0) -> str:
    """A ratio as the change that it is: 0.25 -> −75 %, 1.04 -> +4 %."""
    return f"{signed(100 * (ratio - 1), digits)}{THIN}%"


def times(ratio: float) -> str:
    """0.873 -> 0.87×."""
    digits = 2 if ratio < 9.95 else 1
    return f"{ratio:.{digits}f}×"


def interval(spread: Spread, digits: int = 3, *, sign: bool = False) -> str:
    """[0.84, 0.91]."""
    low, high = (
        signed(v, digits) if sign else f"{v:.{digits}f}".replace("-", MINUS)
        for v in (spread.low, spread.high)
    )
    return f"[{low}, {high}]"


def listed(words: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def counted(number: int, noun: str) -> str:
    """one seed, five seeds, 12 seeds."""
    text = WORDS[number] if number < len(WORDS) else str(number)
    return f"{text} {noun}{'' if number == 1 else 's'}"
