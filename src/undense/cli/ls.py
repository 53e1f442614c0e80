"""`undense ls`: the components and presets that --ffn takes, and the families that take them."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass, field, fields
from typing import Any

from undense.cli.options import Reading, ReadingOptions
from undense.cli.screen import Screen

EXAMPLE_DIM = 768  # where a component shows which of its settings its size is


@dataclass(frozen=True, kw_only=True)
class Options:
    """What can stand in the place of a dense FFN."""

    matrix: bool = False
    """What was checked of every component in every family of models, instead of the lists."""
    common: ReadingOptions = field(default_factory=Reading)


def run(options: Options) -> dict[str, Any]:
    """Every component with its one line, its sizing knob and its defaults; every preset. Or the
    matrix."""
    if options.matrix:
        return options.common.keep("matrix", _matrix())
    import undense.ffn  # noqa: F401  (registers the components)
    from undense.contract import components
    from undense.ffn.presets import PRESETS

    options.common.sow()
    listed = [
        {
            "name": name,
            "about": first_sentence(sys.modules[cls.__module__]),
            "formula": first_sentence(cls),
            "size": sizing_knob(cls),
            "defaults": cls.Config().to_dict(),
        }
        for name, cls in components().items()
    ]
    presets = [{"name": name, "about": first_sentence(make)} for name, make in PRESETS.items()]
    return options.common.keep("ls", {"components": listed, "presets": presets})


def show(result: dict[str, Any], screen: Screen) -> None:
    """Two tables, and how the names are used; or the matrix."""
    if "cells" in result:
        _show_matrix(result, screen)
        return
    screen.table(
        ("component", "sized by", "what it is"),
        [(c["name"], c["size"] or "–", c["about"]) for c in result["components"]],
        words=("sized by", "what it is"),
    )
    screen.line()
    screen.table(
        ("preset", "what it is"),
        [(preset["name"], preset["about"]) for preset in result["presets"]],
        words=("what it is",),
    )
    screen.line()
    screen.line(
        "NAME-N, such as ultra-25 or low_rank-12.5, is sized to N % of the dense FFN's FLOPs."
    )
    screen.line("A JSON object or a .json file with the key `component` sets everything else.")
    screen.line("Defaults: undense ls --json")


def _matrix() -> dict[str, Any]:
    import undense.ffn  # noqa: F401  (registers the components)
    from undense.contract import components
    from undense.convert import matrix

    recorded = matrix.recorded()
    return {
        "checks": matrix.CHECKS,
        "versions": recorded["versions"],
        "components": list(components()),
        "cells": {
            host: {name: row.get(name) for name in components()}
            for host, row in recorded["cells"].items()
        },
    }


def _show_matrix(result: dict[str, Any], screen: Screen) -> None:
    """A row a component, a column a family; beneath, what a check means and what failed."""
    from undense.convert.matrix import failed

    cells = result["cells"]

    def mark(host: str, name: str) -> str:
        cell = cells[host][name]
        if cell is None:
            return "?"
        bad = failed(cell)
        return "ok" if not bad else ",".join(bad)

    hosts = list(cells)
    for first in range(0, len(hosts), 8):  # so that a row fits a terminal
        part = hosts[first : first + 8]
        rows = [(name, *(mark(host, name) for host in part)) for name in result["components"]]
        screen.table(("component", *part), rows, words=part)
        screen.line()
    screen.line(
        "ok: each of these held, on tiny random models; else the checks that did not; ?: not"
    )
    screen.line("checked. Checks:")
    screen.facts(result["checks"])
    for host, row in cells.items():
        for name, cell in row.items():
            for check in failed(cell) if cell else ():
                screen.line(f"{name} in {host}, {check}: {cell.get(check, 'not reached')}")
    screen.line(", ".join(f"{name} {version}" for name, version in result["versions"].items()))


def first_sentence(documented: Any) -> str:
    """The first sentence of a docstring, on one line."""
    text = " ".join((inspect.getdoc(documented) or "").split())
    return text.partition(". ")[0].rstrip(".")


def sizing_knob(cls: Any) -> str | None:
    """The setting that a share of the FLOPs is met with, by trying it; None where there is none."""
    from undense.errors import UndenseError

    base = cls.Config()
    try:
        sizes = [cls.sized(base, EXAMPLE_DIM, size) for size in (1, 2)]
    except UndenseError:
        return None
    return _difference(*sizes)


def _difference(one: Any, other: Any) -> str | None:
    for setting in fields(one):
        before, after = (getattr(config, setting.name) for config in (one, other))
        if before != after:
            nested = _difference(before, after) if hasattr(before, "to_dict") else None
            return f"{setting.name}.{nested}" if nested else setting.name
    return None
