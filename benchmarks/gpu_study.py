"""Train the runs of a study on a GPU; `undense bench pareto` then finds them done, and reports.

    python benchmarks/gpu_study.py STUDY … [--corpus FOLDER] [--jobs 4] [--at-once 8] [--minutes 9]

Rates are swept and arms trained as `undense bench pareto STUDY --output-dir runs/STUDY` would, and
each run is written into the same folder; `graphs.py` says what differs. Where arms train as long
as others, the times of their steps are those of `steps.json` in the folder, or are measured first,
on the CPU here: bring that file from the machine that the claim is about. `--corpus` gives the
default corpus as a folder, where this Python's own library is another. Runs that are done are kept;
a run that was cut off starts again. Without a GPU the same steps are taken on the CPU, for an arm
that joins later (`--jobs 2 --at-once 1`).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import held  # noqa: F401  (mixers with parts held still, in every process)
import peers  # noqa: F401  (the mixers of others)
from graphs import GraphTrainer

from undense.pipeline.arm_costs import ffns
from undense.pipeline.pareto import steps_of
from undense.pipeline.study import Study
from undense.pipeline.study_runs import Run, prepare_worker
from undense.pipeline.tuning import best_rates, claim, run_of, sweep, train_all

ROOT = Path(__file__).resolve().parent.parent
_trainer: GraphTrainer | None = None


def _prepare(folder: str | None, at_once: int, most_steps: int, seconds: float) -> None:
    global _trainer
    prepare_worker(1)
    timer = threading.Timer(seconds, os._exit, (3,))
    timer.daemon = True
    timer.start()
    _trainer = GraphTrainer(folder, at_once=at_once, most_steps=most_steps)


def _learn(runs: Sequence[Run]) -> dict[str, str]:
    """Capture the steps of these arms; why some cannot be."""
    assert _trainer is not None
    return _trainer.learn(runs)


def _train(runs: Sequence[Run]) -> None:
    assert _trainer is not None
    _trainer(runs)


class Workers:
    """Processes that keep the arms they have begun with, and get the runs of those."""

    def __init__(
        self, jobs: int, *, folder: str | None, at_once: int, most_steps: int, seconds: float
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.pools = [
            ProcessPoolExecutor(
                1,
                mp_context=context,
                initializer=_prepare,
                initargs=(folder, at_once, most_steps, seconds),
            )
            for _ in range(jobs)
        ]
        self.place: dict[str, int] = {}
        self.failed: dict[str, str] = {}

    def able(self, study: Study, folder: Path) -> Study:
        """The study with those arms whose step can be captured; the others are said aloud."""
        steps, rate = (study.sweep_steps, study.rates[0])
        runs = [run_of(study, folder, arm, rate, study.sweep_seed, steps) for arm in study.arms]
        shares = self._shares(runs)
        futures = [p.submit(_learn, s) for p, s in zip(self.pools, shares, strict=True)]
        failed = {arm: why for future in futures for arm, why in future.result().items()}
        for arm, why in failed.items():
            print(f"{arm}: left out: {why}", flush=True)
        self.failed |= failed
        arms = {
            name: arm
            for name, arm in study.arms.items()
            if not {name, arm.rate_of, arm.as_long_as} & set(failed)
        }
        yardsticks = tuple(name for name in study.yardsticks if name in arms)
        return replace(study, arms=arms, yardsticks=yardsticks)

    def _shares(self, runs: Sequence[Run]) -> list[list[Run]]:
        """What each process gets: an arm's runs always the same one."""
        shares: list[list[Run]] = [[] for _ in self.pools]
        for run in runs:
            arm = str(run.folder.parent)
            shares[self.place.setdefault(arm, len(self.place) % len(shares))].append(run)
        return shares

    def __call__(self, runs: Sequence[Run]) -> None:
        begun = time.perf_counter()
        shares = self._shares([run for run in runs if run.found() is None])
        futures = [
            pool.submit(_train, share)
            for pool, share in zip(self.pools, shares, strict=True)
            if share
        ]
        for future in futures:
            future.result()
        count, taken = sum(map(len, shares)), time.perf_counter() - begun
        steps = sum(run.recipe.steps for share in shares for run in share)
        print(
            f"{count} runs, {steps} steps in {taken:.0f} s: {steps / taken:.0f} a second",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="+", type=Path)
    parser.add_argument("--corpus")
    parser.add_argument("--jobs", type=int, default=4, help="processes")
    parser.add_argument("--at-once", type=int, default=8, help="arms at a time in each")
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--seeds", nargs="*", type=int)
    options = parser.parse_args()
    asked = [(path, Study.load(path)) for path in options.studies]
    folders = {path: ROOT / "runs" / path.stem for path, _ in asked}
    counts = [steps_of(study, folders[path], 1) for path, study in asked]
    most = max(study.sweep_steps for _, study in asked)
    most = max(most, *(steps for count in counts for steps in count.values()))
    train = Workers(
        options.jobs,
        folder=options.corpus,
        at_once=options.at_once,
        most_steps=most,
        seconds=60 * options.minutes,
    )
    for path, study in asked:
        if options.seeds:
            study = replace(study, seeds=tuple(options.seeds))
        folder = folders[path]
        study = train.able(study, folder)
        claim(study, folder, ffns(study))
        rates = best_rates(study, sweep(study, folder, train))
        print(path.stem, rates, flush=True)
        train_all(study, folder, rates, steps_of(study, folder, 1), train)
    if train.failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
