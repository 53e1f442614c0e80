"""Time on a GPU as its own clock tells it: calls captured in CUDA graphs, arms in turns.

At one token the gaps between launches take longer than the work. A captured graph replays without
them; eager calls, timed beside it, have them. A graph holds a call for every copy of an arm's
weights, so that copies which together outgrow the cache are read anew each time.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from undense.measure.timing import Timing, environment

SAMPLE_MS = 1.0
MOST_CALLS = 200  # in a sample: the queue of a GPU is not endless
AHEAD_CYCLES = 1_000_000  # half a millisecond in which the host gets ahead of the GPU
USUAL_CACHE = 50 * 2**20

Call = Callable[[], object]


def cache_bytes(device: str) -> int:
    """Of the level-2 cache."""
    if device != "cuda":
        return USUAL_CACHE
    return getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) or USUAL_CACHE


def hardware(device: str) -> str:
    """For the result's file and the plot's title."""
    if device != "cuda":
        return "a trial without a GPU: no measurement"
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"


def surroundings(device: str) -> dict[str, Any]:
    """All that the times depend on."""
    found: dict[str, Any] = environment() | {"hardware": hardware(device)}
    if device == "cuda":
        import triton

        card = torch.cuda.get_device_properties(0)
        found |= {
            "cuda": torch.version.cuda,
            "triton": triton.__version__,
            "memory_bytes": card.total_memory,
            "cache_bytes": cache_bytes(device),
            "multiprocessors": card.multi_processor_count,
        }
    precision = torch.get_float32_matmul_precision()
    return found | {"device": device, "float32_matmul_precision": precision}


def failure(error: BaseException) -> str:
    """One line: the error and where it was raised."""
    lines = str(error).strip().splitlines() or [""]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {lines[0][:300]}{where}"


def captured(calls: Sequence[Call]) -> Call:
    """A function that replays them all, one after the other; each is called before, eagerly."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in (calls[0], calls[0], *calls[1:]):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    torch.cuda.synchronize()
    return graph.replay


def once_ms(call: Call, device: str) -> float:
    """Of a single call, the waiting included: enough to plan by."""
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return 1e3 * (time.perf_counter() - start)


def replayed_in_turns(arms: Mapping[str, tuple[Call, int]], *, rounds: int) -> dict[str, Timing]:
    """The GPU's time of a call of each arm, which is a graph's replay and how many calls it has."""
    repeats = {}
    for name, (replay, _) in arms.items():
        least = min(once_ms(replay, "cuda") for _ in range(3))
        repeats[name] = max(1, min(MOST_CALLS, int(SAMPLE_MS / least) + 1))
    marks: dict[str, list[tuple[Any, Any]]] = {name: [] for name in arms}
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            for name in list(arms) if turn % 2 == 0 else reversed(list(arms)):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                torch.cuda._sleep(AHEAD_CYCLES)
                start.record()
                for _ in range(repeats[name]):
                    arms[name][0]()
                end.record()
                marks[name].append((start, end))
            torch.cuda.synchronize()
    finally:
        gc.enable()
    found = {}
    for name, pairs in marks.items():
        count = repeats[name] * arms[name][1]
        samples = tuple(start.elapsed_time(end) / count for start, end in pairs)
        found[name] = Timing(
            samples_ms=samples, calls_per_sample=count, threads=torch.get_num_threads()
        )
    return found


def peak_bytes(call: Call, device: str) -> int | None:
    """Most memory of a call above what was in use before it."""
    if device != "cuda":
        return None
    free(device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def free(device: str) -> None:
    """Give back what nobody holds."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
