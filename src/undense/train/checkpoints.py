"""The Trainer's checkpoints: which of them are whole."""

from __future__ import annotations

from pathlib import Path

from transformers.trainer_utils import sort_checkpoints


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder` that are whole, in the order of their steps: the Trainer writes
    its state file last, so one that was cut off while it was written has none."""
    if not folder.is_dir():
        return []
    found = [Path(path) for path in sort_checkpoints(str(folder))]
    return [path for path in found if (path / "trainer_state.json").exists()]


def last_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint in `folder` that is whole."""
    return next(reversed(whole_checkpoints(folder)), None)


def step_of(checkpoint: Path) -> int:
    """The optimizer steps behind a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])
