"""Results of a long measurement, cell by cell, so that it goes on where it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, final

import torch

from undense.errors import UndenseError
from undense.files import write_json
from undense.measure.timing import environment

PACKAGE = Path(__file__).resolve().parent.parent
SOURCES = (".py", ".cpp", ".inc", ".so")  # with what the compiler made of them


@final
class Cells:
    """One file a cell in `folder`/cells, each with what it depends on.

    A cell counts only for the same `key` and the same identity: this package's source and compiled
    library, torch, the processor and its threads. Another one is measured anew, and written over
    it.
    """

    def __init__(self, folder: Path) -> None:
        if folder.is_file():
            raise UndenseError(f"{folder} is a file; give --output-dir a folder")
        self.folder = folder / "cells"
        self.identity = identity()

    def get(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was measured for `key`, None where nothing was or it no longer counts."""
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            return kept["result"] if kept["identity"] == self.identity else None
        except (ValueError, TypeError, KeyError) as error:
            raise UndenseError(f"{path} is no kept measurement; delete it") from error

    def put(self, key: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Keep a result."""
        self.folder.mkdir(parents=True, exist_ok=True)
        values = {"identity": self.identity, "key": dict(key), "result": dict(result)}
        write_json(self._path(key), values)

    def _path(self, key: Mapping[str, Any]) -> Path:
        words = json.dumps(key, sort_keys=True).encode()
        return self.folder / f"{sha256(words).hexdigest()[:20]}.json"


def identity() -> str:
    """Of all that a time depends on and that no key says: source, torch, processor, threads."""
    digest = sha256(json.dumps([environment(), torch.backends.cpu.get_cpu_capability()]).encode())
    for path in sorted(PACKAGE.rglob("*")):
        if path.suffix in SOURCES:
            digest.update(path.read_bytes())
    return digest.hexdigest()
