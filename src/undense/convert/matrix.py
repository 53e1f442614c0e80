"""What was checked to work: every component in every family, as `benchmarks/matrix.py` found it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from undense.contract import components
from undense.convert.families import FAMILIES
from undense.errors import UndenseError

PATH = Path(__file__).with_name("matrix.json")

CHECKS: dict[str, str] = {
    "convert": "every FFN replaced by a closed-form start, outputs finite",
    "flops": "the formula equals what is dispatched, to the integer, forward and backward",
    "reload": "saved as a stock folder, loaded by Auto classes, the same bits",
    "use": "writes with its cache what it writes without; encodes padded rows as it does alone",
    "lora": "peft over attention, FFNs unfrozen: two steps, saved, loaded, merged, outputs equal",
    "revert": "the dense model back, bit by bit",
}


def recorded() -> dict[str, Any]:
    """The file as it was written."""
    values = json.loads(PATH.read_text(encoding="utf-8"))
    if values.get("format") != 1 or "cells" not in values:
        raise UndenseError(f"{PATH} is no matrix of format 1; run python benchmarks/matrix.py")
    return values


def failed(cell: dict[str, str] | None) -> list[str]:
    """The checks of a cell that are not known to hold: those that failed or never ran."""
    return [name for name in CHECKS if (cell or {}).get(name) != "ok"]


def lacking() -> list[tuple[str, str]]:
    """Families and components of this version that the file has no cell for."""
    cells = recorded()["cells"]
    hosts = {host.partition("/")[0] for host in cells}
    missing = [(family, "*") for family in FAMILIES if family not in hosts]
    return missing + [(h, c) for h, row in cells.items() for c in components() if c not in row]
