"""A run that diverges goes back to its last good checkpoint and continues at half the rate.

Source of the remedy: OPT, https://arxiv.org/abs/2205.01068 section 2.5 (a lower rate, from an
earlier checkpoint, after a divergence). PaLM, https://arxiv.org/abs/2204.02311 section 5.1, skips
the batches instead; here every run shall see the same batches, so that runs can be compared.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import nn
from tqdm import tqdm

from undense.errors import RunDivergedError
from undense.files import write_json
from undense.train.checkpoints import last_checkpoint, step_of, whole_checkpoints
from undense.train.progress import Progress

FILE = "reverts.json"


class DivergenceError(Exception):
    """Step number `step` (1, 2, …) was not taken, or not kept, because of `what`."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"step {step}: {what}")
        self.step = step
        self.what = what


def require_finite(model: nn.Module, step: int) -> None:
    """Raises `DivergenceError` for weights that are not finite after `step` steps."""
    if not all(torch.isfinite(weight).all() for weight in model.parameters()):
        raise DivergenceError(step, "weights not finite")


@dataclass(frozen=True, kw_only=True)
class Revert:
    """One return: which step diverged and why, the step gone back to, the rate from there over the
    recipe's, and what the steps in between had cost."""

    step: int
    what: str
    back_to: int
    rate_factor: float
    steps_lost: int
    seconds_lost: float | None


@final
class Reverts:
    """The returns of a run, in its folder as soon as they happen: a killed run knows them too."""

    def __init__(self, folder: Path, *, most: int) -> None:
        self.folder = folder
        self.most = most
        path = folder / FILE
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        self.events = [Revert(**values) for values in known]

    def steps_lost(self) -> list[int]:
        """The steps 0, 1, … that were taken and given up, each as often as it was."""
        return [step for e in self.events for step in range(e.back_to, e.back_to + e.steps_lost)]

    def seconds(self, kept: float | None) -> float | None:
        """Time in steps, those that were given up included, where `kept` is that of the others."""
        lost = [event.seconds_lost for event in self.events]
        if kept is None or None in lost:
            return None
        return kept + sum(seconds for seconds in lost if seconds is not None)

    def to_list(self) -> list[dict[str, Any]]:
        return [asdict(event) for event in self.events]

    def add(self, error: DivergenceError, spent: Progress, *, learning_rate: float) -> None:
        """Note the return to the last checkpoint and say it; the run then starts from there.

        A checkpoint from which the run diverged twice is suspect itself: it is removed where there
        is one before it. Raises `RunDivergedError` where the run has returned as often as it may.
        """
        checkpoint = last_checkpoint(self.folder)
        if len(self.events) >= self.most:
            kept = "none was written" if checkpoint is None else f"the last is {checkpoint.name}"
            raise RunDivergedError(
                f"training diverged at {error}; it has gone back {len(self.events)} times already,"
                f" of reverts={self.most}; checkpoints: {kept}; lower learning_rate="
                f"{learning_rate:g}, or use dtype fp32"
            ) from error
        if checkpoint is not None and self._suspect(checkpoint):
            shutil.rmtree(checkpoint)
            checkpoint = last_checkpoint(self.folder)
        back_to = 0 if checkpoint is None else step_of(checkpoint)
        now, before = (spent.seconds, Progress.load(checkpoint).seconds)
        event = Revert(
            step=error.step,
            what=error.what,
            back_to=back_to,
            rate_factor=0.5 ** (len(self.events) + 1),
            steps_lost=error.step - back_to,
            seconds_lost=None if now is None or before is None else now - before,
        )
        self.events.append(event)
        write_json(self.folder / FILE, self.to_list())
        tqdm.write(
            f"training diverged at {error}; back to step {back_to}, from there at"
            f" x{event.rate_factor:g} of the learning rate ({len(self.events)} of {self.most}"
            " returns)"
        )

    def _suspect(self, checkpoint: Path) -> bool:
        """Whether the run came back to it already, and there is one before it."""
        if not self.events or self.events[-1].back_to != step_of(checkpoint):
            return False
        return len(whole_checkpoints(self.folder)) > 1
