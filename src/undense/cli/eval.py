"""`undense eval`: held-out loss, cost and size of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from undense.cli.convert import show_metrics
from undense.cli.options import Reading, ReadingOptions
from undense.cli.screen import Screen
from undense.cli.text import Text, TextOptions


@dataclass(frozen=True, kw_only=True)
class Options:
    """A model and the text to judge it on."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """A model folder, a hub name, or "tiny" for the bundled model."""
    text: TextOptions = field(default_factory=Text)
    common: ReadingOptions = field(default_factory=Reading)


def run(options: Options) -> dict[str, Any]:
    """The figures that every folder's metrics.json has."""
    from transformers import set_seed

    from undense.pipeline import steps

    set_seed(options.common.seed)
    metrics = steps.evaluate(options.model, options.text.settings())
    return options.common.keep("eval", {"model": options.model, **metrics})


def show(result: dict[str, Any], screen: Screen) -> None:
    """The figures, one a line."""
    screen.facts({"model": result["model"]})
    show_metrics(result, screen)
