"""The runs of a study: each in a folder of its own, several processes at a time, resumed."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from undense.errors import RunDivergedError, UndenseError
from undense.files import write_json
from undense.train.recipe import PretrainRecipe


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run of a study, and the folder that it is kept in."""

    arm: str
    recipe: PretrainRecipe
    folder: Path

    def __str__(self) -> str:
        recipe = self.recipe
        return f"{self.arm}, rate {recipe.learning_rate:g}, seed {recipe.seed}"

    def found(self) -> dict[str, Any] | None:
        """What the finished run measured; None where it is not finished. A run that diverged has
        the loss infinity. Raises `UndenseError` for a folder of another recipe."""
        try:
            known = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))["recipe"]
            metrics = json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError) as error:
            raise UndenseError(f"{self.folder} holds no readable run; delete it") from error
        if PretrainRecipe.from_dict(known) != self.recipe:
            raise UndenseError(
                f"{self.folder} holds a run of another recipe; delete it, or give another folder"
            )
        return metrics


def run_all(runs: Sequence[Run], *, jobs: int, threads: int) -> None:
    """Train what is not finished, `jobs` at a time, each in a process with `threads` threads.

    A run that was cut off goes on from its checkpoint. What a run prints stands in `FOLDER.log`.
    Raises `UndenseError` for the first run that failed, after those in flight.
    """
    waiting = [run for run in runs if run.found() is None]
    if not waiting:
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        max_workers=jobs, mp_context=context, initializer=prepare_worker, initargs=(threads,)
    )
    with pool, tqdm(total=len(waiting), desc="runs") as progress:
        futures = {pool.submit(_train, run): run for run in waiting}
        try:
            for future in as_completed(futures):
                future.result()
                progress.set_postfix_str(str(futures[future]))
                progress.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def losses(runs: Iterable[Run]) -> list[float]:
    """The final held-out loss of finished runs, in nats a token."""
    found = []
    for run in runs:
        metrics = run.found()
        assert metrics is not None, run
        found.append(math.inf if metrics["loss"] is None else float(metrics["loss"]))
    return found


def prepare_worker(threads: int) -> None:
    """In a process of its own: so many threads, and an end with its parent."""
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker waits for its next run for ever, and holds its memory, where the study was killed:
    it ends with the study. The run it was at goes on from its checkpoint next time."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _train(run: Run) -> None:
    """In a process of its own."""
    from undense.pipeline.pretraining import build_from
    from undense.train.pretrain import pretrain

    run.folder.parent.mkdir(parents=True, exist_ok=True)
    log = run.folder.with_name(f"{run.folder.name}.log")
    with log.open("a", encoding="utf-8") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    try:
        pretrain(run.recipe, run.folder, build=build_from)
    except RunDivergedError as error:
        write_json(run.folder / "run.json", {"recipe": run.recipe.to_dict()})
        write_json(run.folder / "metrics.json", {"loss": None, "diverged": str(error)})
    for checkpoint in run.folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
