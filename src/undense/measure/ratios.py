"""What an arm's figures come to beside the dense ones: promised, measured, realised."""

from __future__ import annotations

import statistics
from typing import Any

from undense.measure.timing import Timing


def speedup(dense: Timing, arm: Timing) -> dict[str, Any]:
    """Dense time over the arm's: that of the medians, and the quartiles over rounds (samples of
    one round belong together)."""
    rounds = [d / a for d, a in zip(dense.samples_ms, arm.samples_ms, strict=True)]
    first, _, third = statistics.quantiles(rounds, n=4, method="inclusive")
    return {"speedup": dense.median_ms / arm.median_ms, "speedup_iqr": [first, third]}


def times_less(dense: float, arm: float) -> float | None:
    """How many times less the arm has of something; None where it has nothing of it."""
    return dense / arm if arm else None


def realised(speedup: float, promised: float | None) -> float | None:
    """Realised fraction: the time ratio over the ratio that was promised (of FLOPs or bytes)."""
    return None if promised is None else speedup / promised


def yardstick(times: dict[str, Timing], candidates: tuple[str, ...]) -> str | None:
    """The fastest of the candidates that were timed."""
    there = [name for name in candidates if name in times]
    return min(there, key=lambda name: times[name].median_ms) if there else None


def amdahl(ffn_share: float, flops_share: float) -> float | None:
    """Speed-up of a whole whose FFNs, `ffn_share` of its time, take `flops_share` of what they
    took: 1 / (1 - s + s f). None where that is no positive number."""
    left = 1 - ffn_share + ffn_share * flops_share
    return 1 / left if left > 0 else None
