"""`bench model`: whole models, dense and with other FFNs, on the same batches, all arms in turn."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedConfig, PreTrainedModel

import undense.ffn  # noqa: F401  (registers the components)
from undense.files import write_json
from undense.measure.cells import Cells
from undense.measure.ffn_arms import TORCH_DTYPES
from undense.measure.oracle import check
from undense.measure.ratios import amdahl, realised, speedup
from undense.measure.timing import Timing, environment, interleaved
from undense.pipeline.bench_settings import ModelBenchSettings
from undense.pipeline.model_arms import (
    DENSE,
    NO_FFN,
    dense_model,
    ffn_of,
    flops_share,
    require_sizes,
    timed_config,
    with_ffn,
)
from undense.pipeline.model_memory import MemoryTask, peak_memory
from undense.pipeline.workloads import Batch
from undense.report.model_bench_plot import draw_model

VERB = "bench-model"


def bench_model(settings: ModelBenchSettings, folder: Path) -> dict[str, Any]:
    """Measure what `folder` does not hold yet; returns everything as plain JSON values.

    Writes `bench-model-DATE.json` and a plot. `ok` is false where an arm's FFN was not right.
    Raises `UndenseError`, before anything is built, for a model or an arm that cannot be.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    configs = checked_configs(settings)
    store = Cells(folder)
    cells: list[dict[str, Any]] = []
    with tqdm(total=len(planned(settings)), desc=VERB) as progress:
        for name, config in configs.items():
            for dtype in settings.dtypes:
                cells += _measured(name, config, dtype, settings, store, progress)
    today = datetime.date.today().isoformat()
    wrong = [
        f"{name} ({cell['model']}, {cell['dtype']}, {cell['workload']}): {arm['status']}"
        for cell in cells
        for name, arm in cell["arms"].items()
        if arm["status"] != "measured"
    ]
    result: dict[str, Any] = {
        "ok": not wrong,
        "created": today,
        "command": "undense bench model",
        "environment": environment(),
        "settings": asdict(settings),
        "weights": "random",
        "wrong": wrong,
        "cells": cells,
    }
    folder.mkdir(parents=True, exist_ok=True)
    plot = draw_model(result, folder / f"{VERB}-{today}.png")
    result["files"] = [str(folder / f"{VERB}-{today}.json"), str(plot)]
    write_json(folder / f"{VERB}-{today}.json", result)
    return result


def checked_configs(settings: ModelBenchSettings) -> dict[str, PreTrainedConfig]:
    """The config of every model. Raises `UndenseError` where one cannot be measured as asked."""
    configs = {name: timed_config(name) for name in settings.models}
    for config in configs.values():
        require_sizes(config, settings.arms)
        _batch(config, settings)
    return configs


def planned(settings: ModelBenchSettings) -> list[str]:
    """The cells in words, in the order in which they are measured."""
    return [
        f"{model} {dtype} {workload}"
        for model in settings.models
        for dtype in settings.dtypes
        for workload in settings.workloads
    ]


def _measured(
    name: str,
    config: PreTrainedConfig,
    dtype: str,
    settings: ModelBenchSettings,
    store: Cells,
    progress: tqdm[Any],
) -> list[dict[str, Any]]:
    """The workloads of one model in one type, those kept from an earlier call as they are."""
    found = []
    models: dict[str, PreTrainedModel] = {}
    for workload in settings.workloads:
        key = {"model": config.to_dict(), "dtype": dtype, "workload": workload}
        key |= {
            field: getattr(settings, field)
            for field in ("arms", "tokens", "new", "batch", "memory", "rounds", "seed")
        }
        cell = store.get(key)
        if cell is None:
            progress.set_postfix_str(f"{name} {dtype} {workload}")
            models = models or _models(config, dtype, settings)
            cell = _cell(name, models, dtype, workload, settings)
            store.put(key, cell)
        progress.update()
        found.append(cell)
    return found


def _models(
    config: PreTrainedConfig, dtype: str, settings: ModelBenchSettings
) -> dict[str, PreTrainedModel]:
    """Every arm; the one without FFNs last, whose time gives the bound."""
    dense = dense_model(config, TORCH_DTYPES[dtype], settings.seed)
    specs = [*settings.arms, *([] if NO_FFN in settings.arms else [NO_FFN])]
    return {DENSE: dense} | {spec: with_ffn(dense, spec, settings.seed) for spec in specs}


def _batch(config: PreTrainedConfig, settings: ModelBenchSettings) -> Batch:
    new = settings.new if "decode" in settings.workloads else 0
    return Batch.drawn(
        config, batch=settings.batch, tokens=settings.tokens, new=new, seed=settings.seed
    )


def _cell(
    name: str,
    models: dict[str, PreTrainedModel],
    dtype: str,
    workload: str,
    settings: ModelBenchSettings,
) -> dict[str, Any]:
    """One workload: FFNs checked, arms timed in turn, memory of each in a process of its own."""
    dense = models[DENSE]
    batch = _batch(dense.config, settings)
    training = workload == "training"
    arms: dict[str, dict[str, Any]] = {}
    for arm, model in models.items():
        arms[arm] = {"status": "measured"}
        if arm == DENSE:
            continue
        torch.manual_seed(settings.seed)
        ffn = ffn_of(model).train(training)
        x = torch.randn(1, batch.rows(workload), ffn.dim).to(TORCH_DTYPES[dtype])
        found = check(ffn, x, training=training)
        if not found.ok:
            arms[arm] = {"status": "wrong: its FFN differs from its fp64 reference; not timed"}
        arms[arm]["check"] = found.to_dict()
        arms[arm]["ffn_flops_share"] = flops_share(dense, arm, training=training)
    right = {arm: models[arm] for arm, entry in arms.items() if entry["status"] == "measured"}
    calls = {arm: batch.call(workload, model) for arm, model in right.items()}
    times = interleaved(calls, rounds=settings.rounds, warmup=1)
    if settings.memory:
        for arm in (DENSE, *settings.arms):
            if arm not in right:
                continue
            task = MemoryTask(
                model=name,
                arm=arm,
                dtype=dtype,
                workload=workload,
                tokens=settings.tokens,
                new=batch.ids.shape[1] - settings.tokens,
                batch=settings.batch,
                threads=torch.get_num_threads(),
                seed=settings.seed,
            )
            arms[arm]["memory"] = peak_memory(task)
    return {
        "model": name,
        "dtype": dtype,
        "workload": workload,
        "tokens": settings.new if workload == "decode" else settings.tokens,
        "past": settings.tokens if workload == "decode" else 0,
        "batches_hash": batch.hash,
        **bounded(arms, times),
    }


def bounded(arms: Mapping[str, dict[str, Any]], times: Mapping[str, Timing]) -> dict[str, Any]:
    """The arms with times and speed-ups, each beside its Amdahl bound.

    The FFNs' share of the dense time is what the model without FFNs does not take; an arm's bound
    is that share shrunk to the arm's share of FLOPs, the ceiling that share gone. `realised`:
    speed-up over bound.
    """
    dense = times[DENSE]
    share = 1 - times[NO_FFN].median_ms / dense.median_ms if NO_FFN in times else None
    result: dict[str, dict[str, Any]] = {}
    for arm, entry in arms.items():
        result[arm] = dict(entry)
        if arm not in times:
            continue
        result[arm] |= times[arm].to_dict() | speedup(dense, times[arm])
        if share is not None and "ffn_flops_share" in entry:
            bound = amdahl(share, entry["ffn_flops_share"])
            result[arm]["bound"] = bound
            result[arm]["realised"] = realised(result[arm]["speedup"], bound)
    ceiling = None if share is None else amdahl(share, 0.0)
    return {"ffn_time_share": share, "ceiling": ceiling, "arms": result}
