"""What a pretraining run knows of itself beside its weights and optimizer: kept in a checkpoint."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from undense.files import write_json

FILE = "progress.json"


@dataclass(kw_only=True)
class Progress:
    """`seconds` in the steps so far, data loading, logging, evaluation and saving left out; None
    after a checkpoint of a version that did not keep them. `running`: mean of the loss, each step
    weighing a tenth; `lowest`: the lowest it was. `halvings` of the learning rate that the state of
    the optimizer already holds.
    """

    seconds: float | None = 0.0
    running: float | None = None
    lowest: float | None = None
    halvings: int = 0

    @classmethod
    def load(cls, checkpoint: Path | None) -> Progress:
        """As it was at `checkpoint`; fresh at the start of a run."""
        if checkpoint is None:
            return cls()
        path = checkpoint / FILE
        if not path.is_file():
            return cls(seconds=None)
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def save(self, checkpoint: Path) -> None:
        """Into the folder of a checkpoint that is being written."""
        write_json(checkpoint / FILE, asdict(self))

    def spend(self, seconds: float) -> None:
        """One more step's time."""
        if self.seconds is not None:
            self.seconds += seconds

    def judge(self, loss: float, *, jump: float) -> str | None:
        """Take in the loss of a step; what is wrong with it, None where nothing is.

        Wrong is a loss that is not finite, and a running mean more than `jump` nats above its own
        lowest: one bad batch passes, a run that lost what it had learned does not.
        """
        if not math.isfinite(loss):
            return f"loss {loss}"
        self.running = loss if self.running is None else 0.9 * self.running + 0.1 * loss
        lowest = self.running if self.lowest is None else min(self.lowest, self.running)
        self.lowest = lowest
        if self.running > lowest + jump:
            return f"running loss {self.running:.3f}, {jump:g} nats above its lowest {lowest:.3f}"
        return None
