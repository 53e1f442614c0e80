"""`undense report`: rebuild the page of a run folder from its JSON files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from undense.cli.options import Reading, ReadingOptions
from undense.cli.screen import Screen


@dataclass(frozen=True, kw_only=True)
class Options:
    """A run folder in, one self-contained page out."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_FOLDER")]
    """What `undense demo` wrote."""
    dry_run: bool = False
    """Read and check the folder, write nothing."""
    common: ReadingOptions = field(default_factory=Reading)


def run(options: Options) -> dict[str, Any]:
    """Where the page is, and its verdict."""
    from undense.report.folder import read_run
    from undense.report.page import NAME, write_report
    from undense.report.verdict import headlines

    options.common.sow()
    run = read_run(options.folder)
    path = (options.common.output_dir or options.folder) / NAME
    if not options.dry_run:
        write_report(options.folder, path)
    return {
        "report": str(path),
        "written": not options.dry_run,
        "arms": list(run.arms),
        "verdict": headlines(run),
    }


def show(result: dict[str, Any], screen: Screen) -> None:
    """The verdict, three lines an arm, and where the rest is."""
    screen.facts(result["verdict"])
    words = "report" if result["written"] else "would write"
    screen.line(f"{words}: {result['report']}")
