"""Run as a program: pretraining runs that are killed by the system, each in a fork of its own.

Reads a JSON list of {"recipe", "folder", "moment"} from its standard input. One interpreter serves
all of them, because importing torch takes longer than the runs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from undense.pipeline.pretraining import build_from
from undense.train.pretrain import pretrain
from undense.train.progress import Progress
from undense.train.recipe import PretrainRecipe

STEP = 5  # where runs of "step" die: after the weights moved, before anything notices


class Killed(TrainerCallback):
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == STEP:
            os.kill(os.getpid(), signal.SIGKILL)


SAVE = Progress.save


def die(self: Progress, checkpoint: Path) -> None:
    """In the middle of the second saving: the weights are on the disk, nothing else is."""
    if checkpoint.name == "checkpoint-4":
        os.kill(os.getpid(), signal.SIGKILL)
    SAVE(self, checkpoint)


def run(recipe: dict[str, Any], folder: str, moment: str) -> None:
    if moment == "saving":
        Progress.save = die  # type: ignore[method-assign]
    callbacks: list[TrainerCallback] = [Killed()] if moment == "step" else []
    pretrain(PretrainRecipe.from_dict(recipe), folder, build=build_from, callbacks=callbacks)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in json.load(sys.stdin):
        child = os.fork()
        if child == 0:
            run(**case)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)
