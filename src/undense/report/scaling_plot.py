"""The plot of `bench scaling`, from its result alone: loss over FLOPs, differences by width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from undense.report.numbers import tick
from undense.report.style import INK, MAIN, OTHERS, REFERENCE, RIVAL, SETTINGS, SOFT


def draw_scaling(result: dict[str, Any], path: Path) -> Path:
    """Left the fitted curves with their 95 % bands, dashed where extrapolated; right the paired
    differences from the arm `against` at every width."""
    arms = result["arms"]
    colors = _colors(list(arms), result["against"])
    settings: Any = SETTINGS | {"figure.facecolor": "white", "axes.facecolor": "white"}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(13, 5.5), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name, arm in arms.items():
            _curve(left, name, arm, colors[name])
        left.set_xscale("log")
        left.set_yscale("log")
        for axis in (left.xaxis, left.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        left.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:.1f}"))
        left.set_xlabel("FLOPs of training the whole model for one token; dashed: extrapolated")
        left.set_ylabel("held-out loss, nats a token")
        figure.legend(loc="outside lower center", ncols=6, frameon=False, labelcolor=INK)
        for name, found in result["differences"].items():
            _difference(right, found, colors[name])
        right.axhline(0, color=SOFT, lw=1)
        right.set_xscale("log", base=2)
        right.set_xticks(widths := [size["width"] for size in result["sizes"]], map(str, widths))
        right.xaxis.set_minor_formatter(NullFormatter())
        right.set_xlabel("width of the model")
        right.set_ylabel(f"loss less that of {result['against']}, paired seeds, 95 %")
        figure.savefig(path, dpi=110)
    return path


def _colors(arms: list[str], against: str) -> dict[str, tuple[str, str]]:
    """The reference in its colour, ours in the main one, narrow in the rival's."""
    rest = iter(OTHERS * len(arms))
    fixed = {against: REFERENCE, "ultra-25": MAIN, "narrow-25": RIVAL}
    return {arm: fixed.get(arm) or next(rest) for arm in arms}


def _curve(axes: Axes, name: str, arm: dict[str, Any], look: tuple[str, str]) -> None:
    color, marker = look
    beyond = [arm["curve"][-1], *arm["extrapolated"]]
    for curve, style in ((arm["curve"], "-"), (beyond, "--")):
        flops = [point["flops"] for point in curve]
        axes.plot(flops, [point["loss"] for point in curve], style, color=color, lw=1.4)
        low, high = zip(*(point["ci95"] for point in curve), strict=True)
        axes.fill_between(flops, low, high, color=color, alpha=0.12, lw=0)
    points = [(point["flops"], loss) for point in arm["points"] for loss in point["losses"]]
    axes.plot(*zip(*points, strict=True), marker, color=color, ms=5, ls="", label=name)


def _difference(axes: Axes, found: dict[str, Any], look: tuple[str, str]) -> None:
    color, marker = look
    for size in found["by_size"]:
        if size["ci95"] is not None:
            axes.plot([size["width"]] * 2, size["ci95"], color=color, lw=2, alpha=0.5)
    points = [(size["width"], size["mean"]) for size in found["by_size"]]
    axes.plot(*zip(*points, strict=True), marker, color=color, ms=7, ls="-", lw=1)
