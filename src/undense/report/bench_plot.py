"""The plots of single FFNs' speed, from the result file alone: how many times faster than dense."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from undense.report.style import INK, MAIN, OTHERS, REFERENCE, RIVAL, SETTINGS, SOFT

COLUMNS = 2


def draw_ffn(result: dict[str, Any], stem: Path) -> list[Path]:
    """A file for each type and mode, a panel for each width: speed-up over the number of tokens.

    Solid: cold weights, with the quartiles over rounds; dotted: warm. A tick at the right is what
    the FLOPs promise. Below the line at 1 an arm is slower than dense.
    """
    asked = result["settings"]
    looks = _looks(list(asked["arms"]))
    paths = []
    for dtype in asked["dtypes"]:
        for mode in asked["modes"]:
            there = [
                cell
                for cell in result["cells"]
                if (cell["dtype"], cell["mode"]) == (dtype, mode) and cell["yardstick"]
            ]
            widths = [dim for dim in asked["widths"] if any(c["dim"] == dim for c in there)]
            if widths:
                path = stem.with_name(f"{stem.name}-{dtype}-{mode}.png")
                _figure(result, there, widths, looks, f"{mode}, {dtype}", path)
                paths.append(path)
    return paths


def _looks(arms: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of every arm: the first is the main one, the first narrow one its rival."""
    rival = next((arm for arm in arms[1:] if arm.startswith("narrow")), None)
    rest = [arm for arm in arms[1:] if arm != rival]
    looks = {arms[0]: MAIN}
    looks |= {arm: OTHERS[number % len(OTHERS)] for number, arm in enumerate(rest)}
    if rival is not None:
        looks[rival] = RIVAL
    return looks


def _figure(
    result: dict[str, Any],
    cells: list[dict[str, Any]],
    widths: list[int],
    looks: dict[str, tuple[str, str]],
    title: str,
    path: Path,
) -> None:
    settings: Any = SETTINGS | {"figure.facecolor": "white", "axes.facecolor": "white"}
    with matplotlib.rc_context(settings):
        columns = min(COLUMNS, len(widths))
        rows = -(-len(widths) // columns)
        size = (1.5 + 5.2 * columns, 1.6 + 3.6 * rows)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
        for axes, dim in zip(panels, widths, strict=False):
            _panel(axes, [cell for cell in cells if cell["dim"] == dim], looks)
            axes.set_title(f"d = {dim}")
        for axes in panels[len(widths) :]:
            axes.set_visible(False)
        for axes in panels[::columns]:
            axes.set_ylabel("times faster than dense")
        handles: dict[str, Any] = {}
        for axes in panels[: len(widths)]:
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=5, frameon=False
        )
        machine = result["environment"]
        hardware = result.get("hardware") or (
            f"{machine['cpu']}, {machine['threads']} of {machine['cores']} cores"
        )
        figure.suptitle(
            f"One FFN, {title}: speed-up over the dense one (solid cold, dotted warm; tick at the"
            f" right: what its FLOPs promise)\n{hardware}, torch {machine['torch']},"
            f" {result['created']}",
            color=INK,
            fontsize=10,
            x=0.01,
            ha="left",
        )
        figure.savefig(path, dpi=120)


def _panel(axes: Axes, cells: list[dict[str, Any]], looks: dict[str, tuple[str, str]]) -> None:
    ends = [1.0]
    tokens = sorted({cell["tokens"] for cell in cells})
    for number, (name, (color, marker)) in enumerate(looks.items()):
        for memory, line in (("warm", (0, (1, 2))), ("cold", "-")):
            points = _points(cells, name, memory)
            if not points:
                continue
            at, middle, low, high, promised = zip(*points, strict=True)
            # one line an arm in the legend, whichever of the two there is
            label = name if memory == "cold" or not _points(cells, name, "cold") else None
            axes.plot(at, middle, marker, color=color, ls=line, ms=5, lw=1.5, label=label)
            ends += [*low, *high]
            if memory == "cold":
                axes.fill_between(at, low, high, color=color, alpha=0.15, lw=0)
            place = tokens[-1] * 1.35 * 1.07**number  # beside one another where they are equal
            axes.plot(place, promised[-1], "_", color=color, ms=9, mew=2.5)
            ends.append(promised[-1])
    low, high = (min(ends) / 1.25, max(ends) * 1.25)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    before, after = axes.get_ylim()
    axes.set_ylim(min(before, low), max(after, high))
    axes.set_xlim(tokens[0] / 1.4, tokens[-1] * 1.5 * 1.07 ** len(looks))
    axes.axhspan(axes.get_ylim()[0], 1, color="#b00020", alpha=0.06, lw=0)
    axes.axhline(1, color=REFERENCE[0], lw=1.6)
    axes.text(tokens[0] / 1.35, 0.97, "slower than dense", va="top", color=SOFT, fontsize=8)
    axes.set_xticks(tokens, [f"{n:,}" for n in tokens])
    axes.set_xlabel("tokens in a call")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _points(cells: list[dict[str, Any]], name: str, memory: str) -> list[tuple[Any, ...]]:
    """(tokens, speed-up, its quartiles, FLOPs less) of an arm, by tokens; none of no FFN at all."""
    return [
        (cell["tokens"], arm["speedup"], *arm["speedup_iqr"], arm["flops_less"])
        for cell in sorted(cells, key=lambda cell: cell["tokens"])
        if cell["memory"] == memory and (arm := cell["arms"].get(name, {})).get("flops_less")
    ]
