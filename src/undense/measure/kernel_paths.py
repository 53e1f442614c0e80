"""The two paths of every operation that has a compiled one, timed in turn at given sizes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from undense.errors import UndenseError
from undense.kernels import choice
from undense.kernels.library import SUFFIX, VARIABLE, kernels, use
from undense.measure.kernel_calls import CALLS, Call
from undense.measure.timing import interleaved, seconds_of

FP32 = (torch.float32,)
PLACE: tuple[str, ...] = ("operation", "dtype", "dim", "tokens")  # what a row is of
COMPILED, PLAIN = "compiled", "plain"
SECONDS = 0.6  # of timing for one size, where that leaves LEAST_ROUNDS
LEAST_ROUNDS, MOST_ROUNDS = 5, 11


@dataclass(frozen=True)
class Operation:
    """What has two paths: its name in a calibration, what it is, the types that compiled code
    takes, and the most tokens that are of interest."""

    name: str
    about: str
    dtypes: tuple[torch.dtype, ...]
    most: int | None = None


# The products first: a whole FFN's plain path is made of them, each by its faster path.
OPERATIONS = (
    Operation("gather_dot", "token-chosen blocks, training: rows times blocks", tuple(SUFFIX)),
    Operation("scatter_add", "token-chosen blocks, training: values times blocks", tuple(SUFFIX)),
    Operation("outer_sum", "token-chosen blocks, training: weight gradients", tuple(SUFFIX)),
    Operation("bent", "token-chosen blocks, training: activation and gate", FP32),
    Operation("routed", "token-chosen blocks, inference: the whole FFN", tuple(SUFFIX)),
    Operation("trained", "token-chosen blocks, training: the whole FFN, both ways", tuple(SUFFIX)),
    Operation("micro_steps", "micro-refinement, inference", tuple(SUFFIX)),
    Operation("spectral_stretch", "spectral mixer, inference: many tokens", FP32),
    Operation("spectral_step", "spectral mixer, inference: a token a sequence", FP32, 16),
    Operation("row_filter", "spectral mixer, training: 64 taps, both ways", FP32),
    Operation("unit_gate", "spectral mixer, training: output gate, both ways", FP32),
)


def calibrated(
    dims: Iterable[int],
    tokens: Iterable[int],
    *,
    refresh: bool,
    progress: Callable[[list[Any]], Iterable[Any]] = iter,
) -> list[dict[str, Any]]:
    """A row for every operation, type and size: times, which path is the faster one, which path a
    call takes and why. What an earlier calibration holds is not measured again but with `refresh`;
    new rows are kept at once, and count at once where nobody named a path.

    Raises UndenseError for a width or a number of tokens below 1, and for a broken calibration."""
    dims, tokens = list(dims), list(tokens)
    for name, values in (("dims", dims), ("tokens", tokens)):
        if not values or min(values) < 1:
            raise UndenseError(f"doctor: {name}={values}; give whole numbers from 1 on")
    there, threads = kernels().library is not None, torch.get_num_threads()
    kept = (
        {_place(row): row for row in choice.calibration(threads)} if there and not refresh else {}
    )
    rows: list[dict[str, Any]] = []
    for operation, dtype, dim, count in progress(list(_sizes(dims, tokens))):
        place = (operation.name, _word(dtype), dim, count)
        row: choice.Row = dict(zip(PLACE, place, strict=True))
        if dtype in operation.dtypes and place not in kept:
            try:
                row |= timed(operation, dtype, dim, count)
            except UndenseError as error:  # a width that an operation does not have
                row["impossible"] = str(error)
            if there and "impossible" not in row:
                kept[place] = row
                choice.keep(kept.values(), threads)
        rows.append(kept.get(place, row))
    return [row | _verdict(row) for row in rows]


def timed(operation: Operation, dtype: torch.dtype, dim: int, tokens: int) -> dict[str, Any]:
    """Times of the paths that there are; `work`: what a choice goes by."""
    torch.manual_seed(0)
    call = CALLS[operation.name](dim, tokens, dtype)
    with choice.forced({}), use() as switch:
        arms = {PLAIN: _arm(operation.name, call, switch, plain=True)}
        if kernels().library is not None:
            arms = {COMPILED: _arm(operation.name, call, switch, plain=False), **arms}
        for arm in arms.values():
            arm()
        seconds = 2 * sum(max(1e-3, seconds_of(arm)) for arm in arms.values())
        rounds = max(LEAST_ROUNDS, min(MOST_ROUNDS, int(SECONDS / seconds)))
        # one thread's processor time leaves out what others on the machine take
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        # the call before a sample is the one that changes the path
        times = interleaved(arms, rounds=rounds, warmup=1, lead=1, clock=clock)
    return {"work": call.work, **{name: timing.to_dict() for name, timing in times.items()}}


def _arm(
    name: str, call: Call, switch: Callable[[bool], None], *, plain: bool
) -> Callable[[], Any]:
    if name in choice.CHOOSING:

        def chosen() -> object:
            choice.force(name, plain)
            return call.run()

        return chosen
    if call.plain is not None:
        return call.plain if plain else call.run

    def switched() -> object:
        switch(not plain)
        return call.run()

    return switched


def _verdict(row: dict[str, Any]) -> dict[str, Any]:
    """The faster path, the path that a call takes, why, and whether another one is clearly
    faster."""
    dtype = getattr(torch, row["dtype"])
    if "impossible" in row:
        return {"takes": None, "why": row["impossible"], "fastest": None, "slower": False}
    found = kernels()
    if found.library is None:
        return {"takes": PLAIN, "why": found.reason, "fastest": None, "slower": False}
    if COMPILED not in row:
        why = f"no compiled code for {row['dtype']}"
        return {"takes": PLAIN, "why": why, "fastest": None, "slower": False}
    name = row["operation"]
    chosen = name in choice.CHOOSING and choice.plain_wins(name, dtype, row["dim"], row["work"])
    takes = PLAIN if chosen else COMPILED
    why = found.path if choice.choosing() else f"{found.path}, {VARIABLE} says so"
    fastest = min((COMPILED, PLAIN), key=lambda path: row[path]["median_ms"])
    return {
        "takes": takes,
        "why": "measured to be faster" if chosen else why,
        "fastest": fastest,
        "slower": takes == COMPILED and choice.clearly_faster(row),
    }


def _sizes(dims: list[int], tokens: list[int]) -> Iterator[tuple[Operation, torch.dtype, int, int]]:
    for operation in OPERATIONS:
        for dtype in SUFFIX:
            for dim in dims:
                for count in tokens:
                    if operation.most is None or count <= operation.most:
                        yield operation, dtype, dim, count


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in PLACE)


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
