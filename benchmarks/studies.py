"""Which studies a script was asked to run: their files, how many runs at a time, which seeds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from undense.pipeline.study import Study


def studies_asked(about: str | None, known: Sequence[Path]) -> tuple[list[tuple[Path, Study]], int]:
    """From the command line: studies (`known` where none is named) by file, and the jobs."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("studies", nargs="*", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", nargs="*", type=int)
    options = parser.parse_args()
    found = []
    for path in options.studies or known:
        study = Study.load(path)
        if options.seeds:
            study = replace(study, seeds=tuple(options.seeds))
        found.append((path, study))
    return found, options.jobs
