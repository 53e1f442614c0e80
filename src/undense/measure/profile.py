"""Where the time of a call goes, module by module, and a trace of it for a browser.

Hooks open a named range around each module that is watched, so components need no edits. The times
come from passes without the profiler, whose own cost would land in the ranges; the trace comes from
one more pass under `torch.profiler`. On a GPU ranges are timed by CUDA events, not by the clock of
the program, which runs ahead.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, record_function

from undense.errors import UndenseError
from undense.measure.peak import peak_megabytes

PREFIX = "undense::"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Milliseconds of one call: `plain_ms` without any hook, `watched_ms` with them, `ranges_ms`
    inside each watched module (those inside others counted in both).

    Both are of the fastest pass: medians of ranges would not sum to the median of the whole, and
    what other programs took is in none of them."""

    plain_ms: float
    watched_ms: float
    ranges_ms: dict[str, float]
    peak_mb: float
    device: str

    @property
    def overhead(self) -> float:
        """What the hooks added, as a share of the plain time."""
        return self.watched_ms / self.plain_ms - 1


def profile(
    call: Callable[[], object],
    modules: Mapping[str, nn.Module],
    *,
    rounds: int = 10,
    warmup: int = 3,
    trace: Path | None = None,
) -> Profile:
    """Time `call` and the ranges of `modules` (name -> module) in it; passes with and without hooks
    alternate. `trace`: write a Chrome trace (chrome://tracing, https://ui.perfetto.dev) there.

    Raises `UndenseError` for fewer than one round, or where no watched module was called.
    """
    if rounds < 1 or warmup < 0:
        raise UndenseError(f"profile: rounds={rounds}, warmup={warmup}; use at least 1 and 0")
    gpu = torch.cuda.is_available() and any(
        parameter.is_cuda for module in modules.values() for parameter in module.parameters()
    )
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(warmup):
        call()
    plain: list[float] = []
    passes: list[tuple[float, dict[str, float]]] = []
    for _ in range(rounds):
        plain.append(_milliseconds(call, gpu))
        with _ranges(modules, gpu, named=False) as marks:
            whole = _milliseconds(call, gpu)
        spans = {name: sum(_span(*span) for span in each) for name, each in marks.items()}
        passes.append((whole, spans))
    watched, ranges = min(passes, key=lambda each: each[0])
    if not ranges:
        raise UndenseError("profile: the call used none of the modules that are watched")
    if trace is not None:
        _trace(call, modules, gpu, trace)
    return Profile(
        plain_ms=min(plain),
        watched_ms=watched,
        ranges_ms=ranges,
        peak_mb=peak_megabytes(),
        device=torch.cuda.get_device_name() if gpu else "cpu",
    )


def _trace(
    call: Callable[[], object], modules: Mapping[str, nn.Module], gpu: bool, path: Path
) -> None:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        with _ranges(modules, gpu, named=True):
            call()
        if gpu:
            torch.cuda.synchronize()
    profiler.export_chrome_trace(str(path))


@contextmanager
def _ranges(
    modules: Mapping[str, nn.Module], gpu: bool, *, named: bool
) -> Iterator[dict[str, list[tuple[Any, Any]]]]:
    """A range around every call of a module, for the profiler `named`; begin and end by name."""
    marks: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
    opened: list[tuple[ExitStack, Any]] = []
    handles = []

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any) -> None:
            around = ExitStack()
            if named:
                around.enter_context(record_function(PREFIX + name))
            opened.append((around, _mark(gpu)))

        return hook

    def leave(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            end = _mark(gpu)
            around, begin = opened.pop()
            around.close()
            marks[name].append((begin, end))

        return hook

    for name, module in modules.items():
        handles.append(module.register_forward_pre_hook(enter(name)))
        handles.append(module.register_forward_hook(leave(name), always_call=True))
    try:
        yield marks
    finally:
        for handle in handles:
            handle.remove()


def _mark(gpu: bool) -> Any:
    if not gpu:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _span(begin: Any, end: Any) -> float:
    """Milliseconds between two marks; those of a GPU have been reached by now."""
    return 1e3 * (end - begin) if isinstance(begin, float) else begin.elapsed_time(end)


def _milliseconds(call: Callable[[], object], gpu: bool) -> float:
    begin = _mark(gpu)
    call()
    end = _mark(gpu)
    if gpu:
        torch.cuda.synchronize()
    return _span(begin, end)
