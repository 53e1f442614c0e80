"""`undense doctor --kernels`: which path every operation takes here, and what each would take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from undense.cli.screen import Screen


def paths(dims: Sequence[int], tokens: Sequence[int], *, refresh: bool) -> dict[str, Any]:
    """The rows of `calibrated`, what is in force, and what was measured on."""
    import torch
    from tqdm import tqdm

    import undense.ffn
    import undense.mixers  # noqa: F401  (registers both)
    from undense.kernels.library import kernels
    from undense.measure.kernel_paths import OPERATIONS, calibrated
    from undense.measure.timing import environment

    def progress(sizes: list[Any]) -> Iterable[Any]:
        return tqdm(sizes, desc="doctor --kernels")

    rows = calibrated(dims, tokens, refresh=refresh, progress=progress)
    found = kernels()
    return {
        "path": found.path,
        "reason": found.reason,
        "threads": torch.get_num_threads(),
        "environment": environment(),
        "operations": {operation.name: operation.about for operation in OPERATIONS},
        "paths": rows,
        "slower": [_place(row) for row in rows if row["slower"]],
    }


def show_paths(result: dict[str, Any], screen: Screen) -> None:
    """A table an operation: the times of both paths (* the faster one) and the one taken; then
    where the one taken is clearly not the faster one, and how to choose by hand."""
    for name, about in result["operations"].items():
        rows = [row for row in result["paths"] if row["operation"] == name]
        screen.table(
            ("type", "width", "tokens", "compiled", "plain PyTorch", "taken", "why"),
            [
                (
                    *(row["dtype"], str(row["dim"]), f"{row['tokens']:,}"),
                    *(_time(row, path) for path in ("compiled", "plain")),
                    *(row["takes"] or "none", row["why"]),
                )
                for row in rows
            ],
            title=f"{name} ({about})",
            words=("taken", "why"),
        )
        screen.line()
    screen.line(f"library: {result['path']} ({result['reason']}), {result['threads']} threads")
    for line in result["environment"]["plain_where_faster"]:
        screen.line(f"chosen: {line}")
    for place in result["slower"]:
        screen.line(f"NOT THE FASTEST: {place} takes the compiled path, plain PyTorch is faster")
    screen.line("UNDENSE_KERNELS=reference forces plain PyTorch everywhere; the name of an")
    screen.line("instruction set (baseline, avx2, avx512, amx) forces compiled code.")


def _place(row: dict[str, Any]) -> str:
    return f"{row['operation']}, {row['dtype']}, width {row['dim']}, {row['tokens']:,} tokens"


def _time(row: dict[str, Any], path: str) -> str:
    if path not in row:
        return "–"
    return f"{row[path]['median_ms']:.3g} ms{'*' if row['fastest'] == path else ''}"
