"""Arms below one another, the best first: means, seeds, intervals; legible for many arms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from undense.report.style import INK, MAIN, SETTINGS, SOFT

LEAST = 3  # seeds of which an interval is drawn: that of two says nothing, and dwarfs the others


def draw_arms(arms: Mapping[str, Mapping[str, Any]], values: str, label: str, path: Path) -> Path:
    """A row an arm: `mean`, every seed's figure under the key `values`, and `ci95` of three seeds
    and more. `label`: what the figures are."""
    ranked = sorted(arms.items(), key=lambda item: item[1]["mean"])
    settings: Any = SETTINGS | {"figure.facecolor": "white", "axes.facecolor": "white"}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(9, 1 + 0.24 * len(ranked)), layout="constrained")
        axes = figure.subplots()
        for row, (_, arm) in enumerate(ranked):
            if len(arm[values]) >= LEAST and arm["ci95"] is not None:
                axes.plot(arm["ci95"], [row, row], color=MAIN[0], linewidth=2, alpha=0.5)
            axes.plot(arm[values], [row] * len(arm[values]), ".", color=SOFT, markersize=5)
            axes.plot(arm["mean"], row, MAIN[1], color=MAIN[0], markersize=6)
        axes.set_yticks(range(len(ranked)), [name for name, _ in ranked])
        axes.invert_yaxis()
        axes.set_xlabel(f"{label}: mean, seeds, 95 % interval of {LEAST} seeds and more")
        axes.xaxis.label.set_color(INK)
        figure.savefig(path, dpi=110)
    return path
