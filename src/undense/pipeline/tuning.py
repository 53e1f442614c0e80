"""How a study is run: every arm's learning rate by a sweep on a seed of its own, then all arms."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from undense.errors import UndenseError
from undense.files import write_json
from undense.measure.intervals import paired
from undense.pipeline.study import MOST_EXTENSIONS, Study
from undense.pipeline.study_runs import Run, losses

# Trains those of the runs that are not finished, and writes each into its folder.
Train = Callable[[Sequence[Run]], None]


def claim(study: Study, folder: Path, ffns: Mapping[str, Any] | None = None) -> None:
    """One study a folder; more arms and more seeds may join it later. `ffns`: by arm the whole
    config of its FFN, of which a recipe may only give a name: runs under a name that has come to
    mean another FFN are not this study's. Raises `UndenseError` for another study."""
    path = folder / "study.json"
    now = study.to_dict() | {"ffns": json.loads(json.dumps(ffns or {}))}
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [k for k in ("base", "rates", "sweep_steps", "sweep_seed") if before[k] != now[k]]
        changed += [
            f"arms.{arm}"
            for arm, fields in before["arms"].items()
            if now["arms"].get(arm, fields) != fields
        ]
        meant = before.get("ffns", {})
        changed += [
            f"what arms.{arm} names"
            for arm, config in now["ffns"].items()
            if meant.get(arm, config) != config
        ]
        if changed:
            raise UndenseError(
                f"{folder} holds another study (differs in {', '.join(changed)}); give another"
                " --output-dir"
            )
        now["arms"] = {**before["arms"], **now["arms"]}
        now["ffns"] = {**meant, **now["ffns"]}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, now)


def run_of(study: Study, folder: Path, arm: str, rate: float, seed: int, steps: int) -> Run:
    recipe = study.recipe(arm, rate=rate, seed=seed, steps=steps)
    return Run(
        arm=arm, recipe=recipe, folder=folder / "runs" / arm / f"{rate:g}-{steps}-seed{seed}"
    )


def sweep(study: Study, folder: Path, train: Train) -> list[dict[str, Any]]:
    """Every arm's losses by rate: the grid, then further at an end while that end is best."""
    factor = study.rates[1] / study.rates[0]
    tried = {arm: list(study.rates) for arm in study.swept}
    runs: dict[str, list[Run]] = {}
    for _ in range(MOST_EXTENSIONS + 1):
        runs = {
            arm: [
                run_of(study, folder, arm, rate, study.sweep_seed, study.sweep_steps)
                for rate in tried[arm]
            ]
            for arm in study.swept
        }
        train([run for runs in runs.values() for run in runs])
        grown = False
        for arm in study.swept:
            found = losses(runs[arm])
            best = found.index(min(found))
            # rounded, so that the same rate has the same folder from whichever end it is reached
            if best == 0:
                tried[arm].insert(0, float(f"{tried[arm][0] / factor:.3g}"))
                grown = True
            elif best == len(found) - 1:
                tried[arm].append(float(f"{tried[arm][-1] * factor:.3g}"))
                grown = True
        if not grown:
            break
    log = []
    for arm, of_arm in runs.items():
        for run, loss in zip(of_arm, losses(of_arm), strict=True):
            metrics = run.found() or {}
            log.append(
                {
                    "arm": arm,
                    "rate": run.recipe.learning_rate,
                    "steps": run.recipe.steps,
                    "loss": loss if math.isfinite(loss) else None,
                    "seconds": metrics.get("training_seconds"),
                }
            )
    return log


def best_rates(study: Study, search: list[dict[str, Any]]) -> dict[str, float]:
    best: dict[str, float] = {}
    for arm in study.swept:
        finite = [row for row in search if row["arm"] == arm and row["loss"] is not None]
        if not finite:
            raise UndenseError(f"study: arm {arm!r} diverged at every rate that was tried")
        best[arm] = min(finite, key=lambda row: row["loss"])["rate"]
    return {arm: best[one.rate_of or arm] for arm, one in study.arms.items()}


def at_an_end(study: Study, search: list[dict[str, Any]]) -> list[str]:
    """The arms whose best rate has no worse one beyond it, however far the sweep went."""
    found = []
    for arm in study.swept:
        rates = [row["rate"] for row in search if row["arm"] == arm]
        if best_rates(study, search)[arm] in (min(rates), max(rates)):
            found.append(arm)
    return found


def train_all(
    study: Study,
    folder: Path,
    rates: dict[str, float],
    steps: dict[str, int],
    train: Train,
) -> dict[str, list[Run]]:
    """Every arm's runs, one a seed; seed by seed, so that an interrupted study has whole pairs."""
    runs = {
        arm: [run_of(study, folder, arm, rates[arm], seed, steps[arm]) for seed in study.seeds]
        for arm in study.arms
    }
    turns = zip(*runs.values(), strict=True)
    train([run for turn in turns for run in turn])
    return runs


def differences(study: Study, values: dict[str, list[float]]) -> dict[str, Any]:
    """Of every arm from every yardstick, seed by seed; `values`: every arm's, one a seed."""
    return {
        f"{arm} - {yardstick}": paired(values[arm], values[yardstick])
        for yardstick in study.yardsticks
        for arm in study.arms
        if arm != yardstick
    }
