"""Writing files as a whole or not at all, and where what can be made again is kept."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; renamed on success, removed on any failure."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_parents(path: Path) -> Iterator[None]:
    """The folders above `path`, made where they are missing; where the block fails, those that were
    made for it go again."""
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # somebody else has put something there
                folder.rmdir()
        raise


def write_json(path: Path, values: Any) -> None:
    """`values` as indented JSON."""
    with whole(path) as partial:
        partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def append_jsonl(path: Path, values: Any) -> None:
    """One more line of a log; a line is short enough to be written at once."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(values) + "\n")


def cache_folder() -> Path:
    """`$UNDENSE_CACHE`, or `undense` in the user's cache folder."""
    if own := os.environ.get("UNDENSE_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "undense"
