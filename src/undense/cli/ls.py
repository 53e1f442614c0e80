"""`undense ls`: the components and presets that --ffn takes."""

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

    common: ReadingOptions = field(default_factory=Reading)


def run(options: Options) -> dict[str, Any]:
    """Every component with its one line, its sizing knob and its defaults; every preset."""
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
    """Two tables, and how the names are used."""
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
