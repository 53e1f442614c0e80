"""Wall-clock of several candidates, measured against each other rather than one after the other.

A machine's speed drifts by more than the differences that are of interest. So all arms run in one
process, in turns, a round at a time and in reversed order every other round; medians and quartiles
are over rounds. A sample repeats a short call until it lasts long enough for the clock.
"""

from __future__ import annotations

import gc
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from undense.errors import UndenseError
from undense.kernels.choice import cpu_model, in_force
from undense.kernels.grouped import on_gpu
from undense.kernels.library import kernels

# The clock resolves far below a microsecond; this leaves its error under one part in a thousand.
SAMPLE_SECONDS = 1e-3


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Time of one call of one arm, in milliseconds.

    `samples_ms`: one for each round; samples of two arms with the same index belong together.
    `calls_per_sample`: how many calls a sample averages. `threads`: PyTorch's, while it ran.
    """

    samples_ms: tuple[float, ...]
    calls_per_sample: int
    threads: int

    @property
    def rounds(self) -> int:
        """Number of samples."""
        return len(self.samples_ms)

    @property
    def median_ms(self) -> float:
        """The middle sample."""
        return statistics.median(self.samples_ms)

    @property
    def iqr_ms(self) -> tuple[float, float]:
        """First and third quartile of the samples."""
        first, _, third = statistics.quantiles(self.samples_ms, n=4, method="inclusive")
        return first, third

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values, the samples left out."""
        return {
            "median_ms": self.median_ms,
            "iqr_ms": list(self.iqr_ms),
            "rounds": self.rounds,
            "calls_per_sample": self.calls_per_sample,
            "threads": self.threads,
        }


def interleaved(
    arms: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int,
    lead: int = 0,
    threads: int | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time every arm in turns: `warmup` calls of each, then `rounds` rounds with one sample each.

    `lead`: calls before every sample that are not in it, so that an arm finds in the cache what it
    left there and not what the arm before it did. `threads` pins PyTorch's threads for as long as
    this runs (None: as they are). `progress` wraps the rounds, for instance a `tqdm` with its
    description. Raises `UndenseError` without an arm or with fewer than two rounds, of which there
    are no quartiles.
    """
    if not arms:
        raise UndenseError("timing: no arms given; name at least one callable")
    if rounds < 2 or warmup < 0:
        raise UndenseError(
            f"timing: rounds={rounds}, warmup={warmup}; use at least 2 rounds and 0 warm-up calls"
        )
    with _pinned(threads) as running_on, _without_garbage_collection():
        batches = {name: _calls_per_sample(arm, warmup, clock) for name, arm in arms.items()}
        samples: dict[str, list[float]] = {name: [] for name in arms}
        for turn in progress(range(rounds)):
            for name in list(arms) if turn % 2 == 0 else reversed(list(arms)):
                for _ in range(lead):
                    arms[name]()
                seconds = _seconds(arms[name], batches[name], clock)
                samples[name].append(1e3 * seconds / batches[name])
    return {
        name: Timing(
            samples_ms=tuple(samples[name]), calls_per_sample=batches[name], threads=running_on
        )
        for name in arms
    }


def seconds_of(call: Callable[[], object]) -> float:
    """How long one call takes: enough to plan by, not to quote."""
    return _seconds(call, 1, time.perf_counter)


def environment() -> dict[str, object]:
    """What a timing depends on, for the files that results are kept in."""
    found: dict[str, object] = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "kernels": kernels().path,
        "plain_where_faster": in_force(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    return found | {"gpu_kernels": on_gpu().path} if torch.cuda.is_available() else found


def _calls_per_sample(arm: Callable[[], object], warmup: int, clock: Callable[[], float]) -> int:
    """Warm up, then double the number of calls until they last as long as a sample should."""
    for _ in range(warmup):
        arm()
    calls = 1
    while (seconds := _seconds(arm, calls, clock)) < SAMPLE_SECONDS:
        # Straight to the goal once the clock says enough about one call, doubling until then.
        wanted = calls * SAMPLE_SECONDS / seconds if seconds > SAMPLE_SECONDS / 10 else 2 * calls
        calls = max(calls + 1, math.ceil(wanted))
    return calls


def _seconds(arm: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    _finish_queued_work()
    start = clock()
    for _ in range(calls):
        arm()
    _finish_queued_work()
    return clock() - start


def _finish_queued_work() -> None:
    """A GPU runs behind the program that feeds it."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


@contextmanager
def _pinned(threads: int | None) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(before if threads is None else threads)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """A collection would be paid by whichever arm happens to run."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
