"""Options that verbs share, and reading a command line into a verb's dataclass."""

from __future__ import annotations

import contextlib
import io
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from undense.errors import UndenseError
from undense.files import write_json
from undense.train.settings import require_seed
from undense_command import VERBS

T = TypeVar("T")
CORNERS = re.compile(r"[│╭╮╰╯]")
RULE = re.compile(r"[─-]*")


class UsageError(UndenseError):
    """A command line that does not fit the verb's options; its exit code is 2."""


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every verb."""

    json: bool = False
    """Print one JSON object on stdout and nothing else there; progress goes to stderr."""
    debug: bool = False
    """Print the traceback of an error."""


@dataclass(frozen=True, kw_only=True)
class Reading(Common):
    """Options of the verbs that only look."""

    seed: int = 0
    """Seed of everything random."""
    output_dir: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Write the result into this folder too, as VERB.json."""

    def __post_init__(self) -> None:
        require_seed(self.seed)
        if self.output_dir is not None and self.output_dir.is_file():
            raise UndenseError(f"{self.output_dir} is a file; give --output-dir a folder")

    def keep(self, verb: str, result: dict[str, Any]) -> dict[str, Any]:
        """`result`, written to the output folder where there is one."""
        if self.output_dir is not None:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            write_json(self.output_dir / f"{verb}.json", result)
        return result

    def sow(self) -> None:
        """Seed Python's own draws; a verb that uses torch seeds that as well."""
        random.seed(self.seed)


# Groups without a prefix: --json, not --common.json.
Flat = tyro.conf.arg(name="")
# The same words for the same option, whichever verb takes it.
TargetOption = Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="TARGET ...")]
SpecOption = Annotated[str | None, tyro.conf.arg(metavar="SPEC")]
CommonOptions = Annotated[Common, Flat]
ReadingOptions = Annotated[Reading, Flat]


def parse(options: type[T], verb: str, argv: Sequence[str]) -> T:
    """The options of `verb` as its dataclass. Prints the help and exits where that is asked for;
    raises `UsageError`, one line, for a command line that does not fit."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                options,
                prog=f"undense {verb}",
                description=VERBS[verb][0].upper() + VERBS[verb][1:] + ".",
                args=list(argv),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as end:
        if end.code:
            raise UsageError(_one_line(complaint.getvalue(), verb)) from None
        sys.stdout.flush()
        raise


def _one_line(box: str, verb: str) -> str:
    """tyro's box as a sentence: what is wrong, the nearest option, where the help is."""
    sections: list[list[str]] = [[]]
    titled = 1 if box.startswith("╭") else 2  # without Unicode the title has a line beneath it
    for line in box.splitlines()[titled:]:
        inner = CORNERS.sub("", line).strip()
        if RULE.fullmatch(inner):
            sections.append([])
        else:
            sections[-1].append(inner)
    said = " ".join(sections[0]) or "the options do not fit"
    near = [s[1].split()[0] for s in sections[1:] if s and s[0].startswith("Perhaps") and s[1:]]
    hint = f"; did you mean {near[0]}?" if near else ";"
    return f"{said.rstrip('.')}{hint} see `undense {verb} --help`"
