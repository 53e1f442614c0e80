"""`report.html` from a run folder: one file that needs nothing else, written as a whole."""

from __future__ import annotations

import html
import re
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from undense.files import whole
from undense.report import plots, prose
from undense.report.folder import read_run
from undense.report.numbers import listed
from undense.report.run import Run
from undense.report.style import looks, styled
from undense.report.tables import arm_rows, cost_parts
from undense.report.verdict import verdicts

NAME = "report.html"
TEMPLATE = "page.html.jinja"


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Read the run in `folder` and write its report there, or to `output`; returns the path.

    Raises `UndenseError` where the folder is no complete run; an earlier report is then kept.
    """
    text = render(read_run(folder))
    path = output or folder / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def render(run: Run) -> str:
    """The page as text; the same run gives the same text."""
    environment = Environment(
        loader=PackageLoader("undense", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["arms"] = lambda text: _marked(text, run)
    with styled():
        drawings = {
            "loss": plots.loss_against_flops(run),
            "time": plots.flops_beside_time(run),
            "cost": plots.cost_by_part(run),
            "curves": plots.training_curves(run),
            "seeds": plots.seed_spread(run),
        }
    return environment.get_template(TEMPLATE).render(
        run=run,
        title=listed([arm.name for arm in run.subjects]),
        looks=looks(run),
        verdicts=[list(group) for _, group in groupby(verdicts(run), lambda v: v.arm)],
        rows=arm_rows(run),
        trees=[(arm, cost_parts(arm.cost)) for arm in run.arms.values()],
        stages=prose.stages(run),
        ceiling=prose.ceiling(run),
        method=prose.method(run),
        events=prose.events(run),
        ngrams=prose.ngrams(run),
        training_time={arm.name: prose.training_time(arm, run) for arm in run.arms.values()},
        plots={name: drawing and Markup(drawing) for name, drawing in drawings.items()},
    )


def _marked(text: str, run: Run) -> Markup:
    """`text` with every arm's name in that arm's colour; "dense" only where it stands alone, for it
    is an ordinary word of the sentences too."""
    named = [name for name in run.arms if name != run.reference or name == text]
    if not named:
        return Markup.escape(text)
    names = sorted(map(re.escape, named), key=len, reverse=True)
    # a name inside a longer word or number is not that arm: "dense" in "undense", "dense-4"
    pattern = re.compile(rf"(?<![\w-])({'|'.join(names)})(?![\w-])")
    drawn = looks(run)
    pieces = pattern.split(text)
    marked = [
        f'<b class="arm" style="color:{drawn[piece].color}">{html.escape(piece)}</b>'
        if number % 2
        else html.escape(piece)
        for number, piece in enumerate(pieces)
    ]
    return Markup("".join(marked))
