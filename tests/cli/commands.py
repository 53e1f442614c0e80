"""What tests of the command line share: what a command left, and a place to break things in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command line left: exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """What --json printed."""
        return json.loads(self.out)

    @property
    def errors(self) -> list[str]:
        """The lines that say what is wrong."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


Command = Callable[..., Outcome]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a test of bad input works: `here` is its own, the rest is shared and only read."""

    here: Path
    dense: Path
    converted: Path
    text: Path

    def copy(self, folder: Path) -> Path:
        """A copy of a model folder, to be damaged."""
        return Path(shutil.copytree(folder, self.here / folder.name))

    def files(self) -> set[Path]:
        """Everything there is now."""
        return set(self.here.rglob("*"))
