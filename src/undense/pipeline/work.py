"""Where a training step keeps its state until its folder is whole, and what may stay of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from undense.errors import UndenseError
from undense.files import new_parents, write_json
from undense.report.values import Values
from undense.train.checkpoints import last_checkpoint

IDENTITY = "identity.json"


@contextmanager
def work_folder(output_dir: Path, identity: dict[str, Any]) -> Iterator[Path]:
    """OUT.work beside the folder OUT to come, for the step that `identity` tells from all others.

    It is removed when the block ends well. When it fails, Ctrl-C included, it stays where it holds
    a state that the same step continues from, and goes where it holds none. Raises `UndenseError`
    where it holds the state of another step.
    """
    work = output_dir.with_name(output_dir.name + ".work")
    path = work / IDENTITY
    identity = json.loads(json.dumps(identity))
    if path.is_file():
        _require_same(work, Values.read(path).values, identity)
    with new_parents(work):
        try:
            work.mkdir(exist_ok=True)
            write_json(path, identity)
            yield work
        except BaseException:
            if not _resumable(work):
                shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work, ignore_errors=True)


def _resumable(work: Path) -> bool:
    """Whether there is more than the identity: a distillation's state, or a whole checkpoint."""
    return (work / "distill.pt").is_file() or last_checkpoint(work) is not None


def _require_same(work: Path, earlier: Mapping[str, Any], identity: dict[str, Any]) -> None:
    changed = sorted(key for key in identity if earlier.get(key) != identity[key])
    if changed:
        raise UndenseError(
            f"{work} holds the state of an interrupted step that differs in"
            f" {', '.join(changed)}; repeat that command to continue it, remove the folder, or"
            " give another --output-dir"
        )
