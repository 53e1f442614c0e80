"""Interleaved timing, on a clock that the arms move themselves: the machine's speed is no part."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable

import pytest
import torch

from undense.errors import UndenseError
from undense.measure.timing import SAMPLE_SECONDS, Timing, environment, interleaved


class FakeTime:
    """A clock that stands still but for what the arms spend."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def arm(self, name: str, milliseconds: Callable[[int], float]) -> Callable[[], None]:
        """A call of `milliseconds(how often it was called before)`."""

        def call() -> None:
            self.now += 1e-3 * milliseconds(self.log.count(name))
            self.log.append(name)

        return call


def constant(milliseconds: float) -> Callable[[int], float]:
    return lambda calls: milliseconds


def test_median_and_quartiles_are_over_rounds() -> None:
    time = FakeTime()
    # one warm-up call and one to see how long a call takes come first
    slow = time.arm("slow", lambda calls: [99, 99, 5, 3, 9, 7, 50][calls])
    timing = interleaved({"slow": slow}, rounds=5, warmup=1, clock=time)["slow"]
    assert timing.samples_ms == pytest.approx((5, 3, 9, 7, 50))
    assert timing.median_ms == pytest.approx(7)
    assert timing.iqr_ms == pytest.approx((5, 9))
    assert timing.rounds == 5
    assert timing.calls_per_sample == 1


def test_arms_take_turns_and_exchange_the_first_place() -> None:
    time = FakeTime()
    arms = {name: time.arm(name, constant(2)) for name in "abc"}
    interleaved(arms, rounds=4, warmup=2, clock=time)
    assert "".join(time.log[-12:]) == "abccbaabccba"
    assert "".join(time.log[:-12]) == "aaabbbccc"


def test_short_calls_are_repeated_until_a_sample_is_long_enough() -> None:
    time = FakeTime()
    arms = {"short": time.arm("short", constant(0.003)), "long": time.arm("long", constant(3))}
    timings = interleaved(arms, rounds=3, warmup=0, clock=time)
    assert timings["long"].calls_per_sample == 1
    repeated = timings["short"].calls_per_sample
    assert SAMPLE_SECONDS <= 0.003e-3 * repeated < 2 * SAMPLE_SECONDS
    assert timings["short"].median_ms == pytest.approx(0.003)


def test_threads_are_pinned_recorded_and_given_back() -> None:
    before = torch.get_num_threads()
    seen = set()
    time = FakeTime()
    spend = time.arm("arm", constant(2))

    def arm() -> None:
        seen.add(torch.get_num_threads())
        spend()

    timing = interleaved({"arm": arm}, rounds=2, warmup=1, threads=1, clock=time)["arm"]
    assert seen == {1}
    assert timing.threads == 1
    assert torch.get_num_threads() == before


def test_collector_rests_meanwhile_and_works_again_after_an_error() -> None:
    states = []

    def arm() -> None:
        states.append(gc.isenabled())
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        interleaved({"arm": arm}, rounds=2, warmup=1)
    assert states == [False]
    assert gc.isenabled()


def test_progress_sees_every_round() -> None:
    time = FakeTime()
    seen: list[int] = []

    def progress(rounds: Iterable[int]) -> Iterable[int]:
        for number in rounds:
            seen.append(number)
            yield number

    interleaved(
        {"a": time.arm("a", constant(2))}, rounds=3, warmup=0, progress=progress, clock=time
    )
    assert seen == [0, 1, 2]


def test_real_clock_times_real_work() -> None:
    square = torch.randn(32, 32)
    timing = interleaved({"product": lambda: square @ square}, rounds=2, warmup=1)["product"]
    assert timing.median_ms > 0
    assert timing.iqr_ms[0] <= timing.median_ms <= timing.iqr_ms[1]


@pytest.mark.parametrize(
    ("arms", "rounds", "warmup", "message"),
    [
        ({}, 5, 1, "no arms"),
        ({"a": lambda: None}, 1, 1, "rounds=1"),
        ({"a": lambda: None}, 5, -1, "warmup=-1"),
    ],
)
def test_impossible_requests_are_refused(
    arms: dict[str, Callable[[], object]], rounds: int, warmup: int, message: str
) -> None:
    with pytest.raises(UndenseError, match=message):
        interleaved(arms, rounds=rounds, warmup=warmup)


def test_timing_and_environment_are_json() -> None:
    timing = Timing(samples_ms=(1.0, 2.0, 4.0), calls_per_sample=3, threads=2)
    assert json.loads(json.dumps(timing.to_dict())) == {
        "median_ms": 2.0,
        "iqr_ms": [1.5, 3.0],
        "rounds": 3,
        "calls_per_sample": 3,
        "threads": 2,
    }
    described = environment()
    assert json.loads(json.dumps(described)) == described
    assert described["threads"] == torch.get_num_threads()
    assert described["torch"] == str(torch.__version__)
    assert described["dtype"] == "float32"
    assert described["cpu"]


def test_leading_calls_are_in_no_sample() -> None:
    time = FakeTime()
    # two to see how long a call takes; then the leading call of each round is the slow one
    slow_then_fast = time.arm("arm", lambda calls: [4, 4, 50, 3, 70, 5][calls])
    timing = interleaved({"arm": slow_then_fast}, rounds=2, warmup=1, lead=1, clock=time)["arm"]
    assert timing.samples_ms == pytest.approx((3, 5))
