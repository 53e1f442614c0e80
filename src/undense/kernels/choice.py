"""Which of two correct paths a call takes, where somebody measured that the plain one is faster.

Wherever there is a compiled path it is taken, but where a calibration of this machine, written by
`undense doctor --kernels`, says that plain PyTorch is faster at that size by a clear margin, as the
matrix library can be where vector units are narrow. Where UNDENSE_KERNELS names a path, that one is
taken.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from undense.errors import UndenseError
from undense.files import cache_folder, write_json
from undense.kernels.library import SUFFIX, VARIABLE, is_compiling, kernels

# The operations that ask, and what their `work` counts.
CHOOSING = {
    "routed": "tokens",
    "trained": "tokens",
    "gather_dot": "pairs a block",
    "scatter_add": "pairs a block",
    "outer_sum": "pairs a block",
    "unit_gate": "tokens",
}
MARGIN = 1.1  # the plain path is taken where the compiled one takes so many times its time
LARGEST = 64  # bits of a size
ENDING = ".kernels.json"

Row = dict[str, Any]
Place = tuple[str, torch.dtype, int, int]
_forced: dict[str, bool] = {}


def plain_wins(operation: str, dtype: torch.dtype, dim: int, work: int) -> bool:
    """Whether the plain path was measured to be the faster one here; `work`: see CHOOSING.

    Sizes count by powers of two; a `work` that was not measured goes with the next smaller one
    that was. Where nothing was measured (another width, more work than ever with the compiled path
    the faster one until then) the compiled path is taken."""
    if is_compiling():
        return False
    if operation in _forced:
        return _forced[operation]
    if anything_chosen():
        place = (operation, dtype, dim.bit_length(), work.bit_length())
        return _table(torch.get_num_threads()).get(place, False)
    return False


@functools.cache
def anything_chosen() -> bool:
    """Whether there is any calibration that could count, for any number of threads."""
    if kernels().library is None or not choosing():
        return False
    return any(cache_folder().glob(f"*{ENDING}"))


@contextmanager
def forced(choices: Mapping[str, bool]) -> Iterator[None]:
    """Within, these operations take the plain path (True) or the compiled one (False), whatever
    was measured; to measure either."""
    before = dict(_forced)
    _forced.update(choices)
    try:
        yield
    finally:
        _forced.clear()
        _forced.update(before)


def force(operation: str, plain: bool) -> None:
    """Change a choice within `forced`."""
    _forced[operation] = plain


def clearly_faster(row: Row) -> bool:
    """Whether the plain path of a row is faster by MARGIN, and its quartiles lie below the
    compiled path's: noise is no reason to change."""
    compiled, plain = row["compiled"], row["plain"]
    return (
        plain["median_ms"] * MARGIN <= compiled["median_ms"]
        and plain["iqr_ms"][1] < compiled["iqr_ms"][0]
    )


def table_of(rows: Iterable[Row]) -> dict[Place, bool]:
    """What `plain_wins` looks up: each measured size up to the next one; the largest to any, where
    the plain path won there: from where on it would, nobody measured."""
    dtypes = {str(dtype).removeprefix("torch."): dtype for dtype in SUFFIX}
    measured: dict[tuple[str, torch.dtype, int], dict[int, bool]] = {}
    for row in rows:
        if row["operation"] in CHOOSING:
            place = (row["operation"], dtypes[row["dtype"]], row["dim"].bit_length())
            works, bits = measured.setdefault(place, {}), row["work"].bit_length()
            works[bits] = works.get(bits, True) and clearly_faster(row)
    table: dict[Place, bool] = {}
    for place, works in measured.items():
        starts = sorted(works)
        last = LARGEST if works[starts[-1]] else starts[-1]
        for start, end in zip(starts, [*starts[1:], last + 1], strict=True):
            for bits in range(start, end):
                table[(*place, bits)] = works[start]
    return table


@functools.cache
def _table(threads: int) -> dict[Place, bool]:
    """Of this machine, for so many threads; empty where nothing was measured."""
    return table_of(calibration(threads)) if anything_chosen() else {}


def choosing() -> bool:
    """Whether a calibration counts: nobody named a path."""
    return (os.environ.get(VARIABLE) or "auto") == "auto"


def in_force() -> list[str]:
    """The sizes at which the plain path is taken in place of a compiled one, in words."""
    if kernels().library is None or not choosing():
        return []
    table = _table(torch.get_num_threads())
    lines = []
    for (operation, dtype, dim, work), plain in sorted(table.items(), key=str):
        if not plain or table.get((operation, dtype, dim, work - 1)):
            continue
        end = work
        while table.get((operation, dtype, dim, end + 1)):
            end += 1
        least = 1 << work - 1 if work else 0
        sizes = f"from {least}" if end == LARGEST else f"{least} to {(1 << end) - 1}"
        widths = f"width {1 << dim - 1} to {(1 << dim) - 1}"
        kind = str(dtype).removeprefix("torch.")
        unit = CHOOSING[operation]
        lines.append(f"{operation} {kind}, {widths}, {sizes} {unit}: plain PyTorch")
    return lines


def calibration(threads: int) -> list[Row]:
    """What was measured here with so many threads; empty where nothing was.

    Raises UndenseError for a file that is no calibration."""
    path = _path(threads)
    if not path.is_file():
        return []
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        rows = kept["rows"]
        table_of(rows)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise UndenseError(
            f"{path} is no calibration; delete it, or run `undense doctor --kernels --refresh`"
        ) from error
    return rows


def keep(rows: Iterable[Row], threads: int) -> Path:
    """Write a calibration, as a whole or not at all; it counts at once."""
    path = _path(threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"key": _key(threads), "rows": list(rows)})
    forget()
    return path


def forget() -> None:
    """Ask the disk again: it, or what the environment says, has changed."""
    _table.cache_clear()
    anything_chosen.cache_clear()


def _path(threads: int) -> Path:
    words = json.dumps(_key(threads), sort_keys=True).encode()
    return cache_folder() / f"{sha256(words).hexdigest()[:32]}{ENDING}"


def _key(threads: int) -> dict[str, object]:
    """All that the times depend on."""
    found = kernels()
    assert found.library is not None
    return {
        "library": sha256(Path(found.library._name).read_bytes()).hexdigest(),
        "path": found.path,
        "cpu": cpu_model(),
        "torch": torch.__version__,
        "threads": threads,
    }


def cpu_model() -> str:
    """The processor's name; the kernel's own list is the only place that has it on Linux."""
    listing = Path("/proc/cpuinfo")
    if sys.platform == "linux" and listing.exists():
        for line in listing.read_text().splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
