"""How every plot looks: one colour and marker for each arm everywhere, and SVG fit for a page.

Colours follow Okabe and Ito's, told apart under every common colour blindness, darkened until text
in them can be read on white. https://jfly.uni-koeln.de/color/
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from undense.report.run import Run

INK = "#1f2933"
SOFT = "#6b7785"
RULE = "#d8dee6"
REFERENCE = ("#333333", "s")
FLOOR = ("#767d87", "X")
RIVAL = ("#b86a00", "D")
MAIN = ("#0072b2", "o")
OTHERS = (
    ("#00856a", "^"),
    ("#b8568f", "v"),
    ("#7a5195", "P"),
    ("#6b7a00", "<"),
    ("#8c4f3d", ">"),
    ("#3d8fb8", "p"),
)
SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": RULE,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "undense",
}


@dataclass(frozen=True, kw_only=True)
class Look:
    """How one arm is drawn."""

    color: str
    marker: str

    def tint(self, step: int, steps: int) -> str:
        """Shade number `step` of `steps`, from the colour itself towards white."""
        amount = 0.72 * step / max(steps - 1, 1)
        red, green, blue = (channel + (1 - channel) * amount for channel in to_rgb(self.color))
        return to_hex((red, green, blue))


def looks(run: Run) -> dict[str, Look]:
    """The look of every arm: by its role, else by its place among the others."""
    roles = {
        run.floor: FLOOR,
        run.rival: RIVAL,
        run.main: MAIN,
        run.reference: REFERENCE,
    }
    others = [name for name in run.arms if name not in roles]
    taken = {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(others)}
    pairs = {name: roles.get(name) or taken[name] for name in run.arms}
    return {name: Look(color=color, marker=marker) for name, (color, marker) in pairs.items()}


@contextmanager
def styled() -> Iterator[None]:
    """Plots drawn and written inside look alike, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


def canvas(
    height: float, columns: int = 1, *, widths: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure of the page's width, and its panels from left to right."""
    figure = Figure(figsize=(10.4, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12)  # type: ignore[union-attr]
    axes = figure.subplots(1, columns, squeeze=False, width_ratios=widths)
    return figure, list(axes[0])


def svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an SVG element: no header, ids of its own, a name for screen readers."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    # the size comes from the page
    text = re.sub(r'^<svg([^>]*?) width="[^"]*"', r"<svg\1", text, count=1)
    text = re.sub(r'^<svg([^>]*?) height="[^"]*"', r"<svg\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, at least `gap` from each other, inside [low, high]."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [min(max(wanted[i], low), high) for i in order]
    for _ in range(200):
        moved = False
        for below in range(len(placed) - 1):
            short = gap - (placed[below + 1] - placed[below])
            if short > 1e-9:
                placed[below] -= short / 2
                placed[below + 1] += short / 2
                moved = True
        if placed and (over := placed[-1] - high) > 0:
            placed[-1] -= over
        if placed and (under := low - placed[0]) > 0:
            placed[0] += under
        if not moved:
            break
    result = [0.0] * len(wanted)
    for place, index in enumerate(order):
        result[index] = placed[place]
    return result
