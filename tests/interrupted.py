"""Runs that are cut off: what several test files do to a Trainer."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback


class KilledAt(TrainerCallback):
    """Ctrl-C when step number `step` (0, 1, …) begins: `step` steps are behind it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt
