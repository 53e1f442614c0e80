"""The plot of a measurement of whole models, from its result file alone: speed-up beside bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from undense.report.style import INK, MAIN, REFERENCE, RIVAL, SETTINGS, SOFT


def draw_model(result: dict[str, Any], path: Path) -> Path:
    """A panel for each model, type and workload; a row an arm: measured (filled, with quartiles)
    tied to its Amdahl bound (hollow). Left of the line at 1 an arm is slower than dense."""
    cells = result["cells"]
    columns = min(3, len(cells))
    rows = -(-len(cells) // columns)
    arms = max(len(cell["arms"]) - 1 for cell in cells)
    settings: Any = SETTINGS | {"figure.facecolor": "white", "axes.facecolor": "white"}
    with matplotlib.rc_context(settings):
        size = (1.4 + 3.6 * columns, 1.2 + rows * (0.9 + 0.42 * arms))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, cell in zip(panels, cells, strict=False):
            _panel(axes, cell)
        for axes in panels[len(cells) :]:
            axes.set_visible(False)
        machine = result["environment"]
        figure.suptitle(
            f"Whole models, random weights: speed-up over dense (filled) beside its Amdahl bound"
            f" (hollow)\n{machine['cpu']}, {machine['threads']} of {machine['cores']} cores, torch"
            f" {machine['torch']}, {result['created']}",
            color=INK,
            fontsize=10,
            x=0.01,
            ha="left",
        )
        figure.savefig(path, dpi=120)
    return path


def _panel(axes: Axes, cell: dict[str, Any]) -> None:
    arms = {name: arm for name, arm in cell["arms"].items() if "speedup" in arm and name != "dense"}
    ends = [1.0]
    for row, (name, arm) in enumerate(arms.items()):
        color = RIVAL[0] if name.startswith("narrow") else SOFT if name == "none" else MAIN[0]
        low, high = arm["speedup_iqr"]
        if arm.get("bound"):
            axes.plot([arm["speedup"], arm["bound"]], [row, row], color=color, lw=1, alpha=0.4)
            axes.plot(arm["bound"], row, "o", mfc="white", mec=color, ms=8, mew=1.5)
            ends.append(arm["bound"])
        axes.plot([low, high], [row, row], color=color, lw=4, alpha=0.5)
        axes.plot(arm["speedup"], row, "o", color=color, ms=6)
        axes.annotate(
            f"{arm['speedup']:.2f}×",
            (arm["speedup"], row),
            (0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=color,
        )
        ends += [low, high]
    axes.axvspan(0, 1, color="#b00020", alpha=0.06, lw=0)
    axes.axvline(1, color=REFERENCE[0], lw=1.6)
    axes.set_xlim(0, max(ends) * 1.12)
    axes.set_ylim(len(arms) - 0.4, -0.7)
    axes.set_yticks(range(len(arms)), list(arms))
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    size = f"{cell['tokens']} tokens" + (f" after {cell['past']}" if cell["past"] else "")
    name = cell["model"].rpartition(":")[2].rpartition("/")[2]
    axes.set_title(f"{name}, {cell['dtype']}\n{cell['workload']}, {size}", fontsize=9)
