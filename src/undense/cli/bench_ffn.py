"""`undense bench ffn`: how fast single FFNs are, each checked against fp64 and then timed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from undense.cli.options import Common, CommonOptions, Flat
from undense.cli.screen import Screen
from undense.pipeline.bench_settings import FFNBenchSettings


@dataclass(frozen=True, kw_only=True)
class Options:
    """One FFN of every kind against the dense one; an interrupted call goes on when repeated."""

    settings: Annotated[FFNBenchSettings, Flat] = field(default_factory=FFNBenchSettings)
    output_dir: Path = Path("runs/bench-ffn")
    """Where cells are kept as they are measured, and the result file and plots are written."""
    dry_run: bool = False
    """Say what would be measured and what it takes at least, and write nothing."""
    common: CommonOptions = field(default_factory=Common)


def run(options: Options) -> dict[str, Any]:
    """The cells and their expected seconds, or every figure."""
    from undense.pipeline.ffn_bench import bench_ffn, expected

    if not options.dry_run:
        return {"dry_run": False, **bench_ffn(options.settings, options.output_dir)}
    cap = options.settings.cap_seconds
    cells = [
        {"cell": str(cell), "seconds": seconds, "over_the_cap": seconds > cap}
        for cell, seconds in expected(options.settings)
    ]
    return {"dry_run": True, "output_dir": str(options.output_dir), "cells": cells}


def show(result: dict[str, Any], screen: Screen) -> None:
    """A table for each width, type and mode; then what is wrong and where the files are."""
    if result["dry_run"]:
        rows = [
            (c["cell"], f"{c['seconds']:.1f} s", "over the cap" if c["over_the_cap"] else "")
            for c in result["cells"]
        ]
        screen.table(("cell", "at least", "note"), rows, words=("note",))
        seconds = sum(c["seconds"] for c in result["cells"] if not c["over_the_cap"])
        screen.line(f"together at least {seconds:.0f} s; would write: {result['output_dir']}")
        return
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for cell in result["cells"]:
        groups.setdefault((cell["dim"], cell["dtype"], cell["mode"]), []).append(cell)
    for (dim, dtype, mode), cells in groups.items():
        _table(f"d = {dim}, {dtype}, {mode}", cells, screen)
        screen.line()
    screen.line("times faster than dense, then the share of what the FLOPs promise that this is;")
    screen.line("after / at few tokens: of what the bytes that must be read promise.")
    screen.line("cold: every call takes other copies of the weights, which together span at least")
    spans = [a["span_bytes"] for c in result["cells"] for a in c["arms"].values() if "copies" in a]
    cold = [span for span in spans if span]
    cache = result["environment"]["last_level_cache"]
    size = f"{cache / 1e6:,.0f} MB" if cache else "unknown"
    screen.line(f"{min(cold, default=0) / 1e6:,.1f} MB; the last-level cache is {size}.")
    for line in result["wrong"]:
        screen.line(f"NOT RIGHT: {line}")
    for path in result["files"]:
        screen.line(path)


def _table(title: str, cells: list[dict[str, Any]], screen: Screen) -> None:
    """A row an arm and cache, a column a number of tokens."""
    tokens = sorted({cell["tokens"] for cell in cells})
    names = list(dict.fromkeys(name for cell in cells for name in cell["arms"]))
    rows: list[list[str]] = []
    for name in names:
        for memory in dict.fromkeys(cell["memory"] for cell in cells):
            by_tokens = {c["tokens"]: c for c in cells if c["memory"] == memory}
            shown = [_figure(by_tokens[n], name) for n in tokens]
            rows.append([name, memory, _promised(cells, name), *shown])
    for cell in cells:
        if cell["status"] != "measured" and not names:
            rows.append(["all", cell["memory"], "", *("skipped" for _ in tokens)])
            break
    columns = ("arm", "cache", "FLOPs less", *(f"{n:,} tok." for n in tokens))
    screen.table(columns, rows, title=title, words=("cache",))
    for reason in dict.fromkeys(c["status"] for c in cells if c["status"] != "measured"):
        at = [f"{c['tokens']:,} {c['memory']}" for c in cells if c["status"] == reason]
        screen.line(f"{', '.join(at)}: {reason}")


def _promised(cells: list[dict[str, Any]], name: str) -> str:
    found = [c["arms"][name].get("flops_less") for c in cells if name in c["arms"]]
    less = next((value for value in found if value), None)
    return "" if less is None else f"{less:.1f}x"


def _figure(cell: dict[str, Any], name: str) -> str:
    if cell["status"] != "measured":
        return "skipped"
    arm = cell["arms"][name]
    if arm["status"] != "measured":
        return str(arm["status"]).partition(":")[0]
    if "speedup" not in arm or name == cell["yardstick"]:
        return f"{arm['median_ms']:.3g} ms"
    shares = [arm[key] for key in ("realised", "realised_bytes") if arm.get(key) is not None]
    percent = f" {'/'.join(f'{100 * share:.0f}' for share in shares)}%" if shares else ""
    return f"{arm['speedup']:.2f}x{percent}"
