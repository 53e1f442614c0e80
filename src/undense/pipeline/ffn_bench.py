"""`bench ffn`: every cell of the measurement, kept as it goes; then the result file and plots."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import undense.ffn  # noqa: F401  (registers the components)
from undense.files import write_json
from undense.measure.cells import Cells
from undense.measure.ffn_arms import Arm, arms_at, require_some_size
from undense.measure.ffn_bench import Bench, Cell, failures
from undense.measure.rotation import last_level_cache, wanted_span
from undense.measure.timing import environment
from undense.pipeline.bench_settings import FFNBenchSettings
from undense.report.bench_plot import draw_ffn

VERB = "bench-ffn"


def bench_ffn(settings: FFNBenchSettings, folder: Path) -> dict[str, Any]:
    """Measure the cells that `folder` does not hold yet; returns everything as plain JSON values.

    Writes `bench-ffn-DATE.json` and a plot for each type and mode. `ok` is false where an arm was
    wrong. Raises `UndenseError` for a spec that has no size at any of the widths.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    require_some_size(settings.arms, settings.widths, gated=settings.gated)
    cells = Cells(folder)
    found: list[dict[str, Any]] = []
    with tqdm(total=len(cells_of(settings)), desc=VERB) as progress:
        for dim in settings.widths:
            arms = arms_at(settings.arms, dim, gated=settings.gated)
            for dtype in settings.dtypes:
                found += _measured(settings, cells, arms, dim, dtype, progress)
    wrong = [line for cell in found for line in failures(cell)]
    today = datetime.date.today().isoformat()
    result: dict[str, Any] = {
        "ok": not wrong,
        "created": today,
        "command": "undense bench ffn",
        "environment": environment() | {"last_level_cache": last_level_cache()},
        "settings": asdict(settings),
        "wrong": wrong,
        "cells": found,
    }
    folder.mkdir(parents=True, exist_ok=True)
    plots = draw_ffn(result, folder / f"{VERB}-{today}")
    result["files"] = [str(folder / f"{VERB}-{today}.json"), *map(str, plots)]
    write_json(folder / f"{VERB}-{today}.json", result)
    return result


def cells_of(settings: FFNBenchSettings) -> list[Cell]:
    """The cells in the order in which they are measured."""
    return [
        cell for dim in settings.widths for d in settings.dtypes for cell in _at(settings, dim, d)
    ]


def expected(settings: FFNBenchSettings) -> list[tuple[Cell, float]]:
    """Every cell, and the least that it takes in seconds."""
    require_some_size(settings.arms, settings.widths, gated=settings.gated)
    found = []
    for dim in settings.widths:
        arms = arms_at(settings.arms, dim, gated=settings.gated)
        for dtype in settings.dtypes:
            bench = _bench(settings, arms, dtype)
            found += [(cell, bench.expected_seconds(cell)) for cell in _at(settings, dim, dtype)]
    return found


def _at(settings: FFNBenchSettings, dim: int, dtype: str) -> Iterator[Cell]:
    for mode, tokens, memory in product(settings.modes, settings.tokens, settings.memories):
        yield Cell(dim=dim, dtype=dtype, mode=mode, tokens=tokens, memory=memory)


def _bench(settings: FFNBenchSettings, arms: list[Arm], dtype: str) -> Bench:
    return Bench(
        arms=arms,
        dtype=dtype,
        span=wanted_span(len(arms), settings.rotate_mb) if "cold" in settings.memories else 0,
        rounds=settings.rounds,
        cap_seconds=settings.cap_seconds,
        seed=settings.seed,
        compiled=settings.compiled,
    )


def _measured(
    settings: FFNBenchSettings,
    cells: Cells,
    arms: list[Arm],
    dim: int,
    dtype: str,
    progress: tqdm[Any],
) -> Iterator[dict[str, Any]]:
    """The cells at one width and type, those kept from an earlier call as they are."""
    bench: Bench | None = None
    configs = {arm.name: arm.config and arm.config.to_dict() for arm in arms}
    how = {
        name: getattr(settings, name)
        for name in ("rounds", "cap_seconds", "rotate_mb", "compiled", "seed")
    }
    for cell in _at(settings, dim, dtype):
        key = {"arms": configs, "cell": asdict(cell), **how}
        result = cells.get(key)
        if result is None:
            bench = bench or _bench(settings, arms, dtype)
            progress.set_postfix_str(str(cell))
            result = bench.measured(cell)
            cells.put(key, result)
        progress.update()
        yield result
