"""The plot of a profile: share of the time beside share of the FLOPs, from `profile.json` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from undense.report.style import INK, MAIN, RIVAL, SETTINGS


def draw(profile: dict[str, Any], path: Path) -> None:
    """Two bars a row: parts of the model, then the pieces of attention and FFNs (above 0.5 %)."""
    rows = [(row["part"], row) for row in profile["parts"]]
    pieces = [
        (f"{row['part']}: {row['component']}", row)
        for row in profile["components"]
        if max(row["time_share"], row["flops_share"]) >= 0.005
    ]
    settings: Any = SETTINGS | {"figure.facecolor": "white", "axes.facecolor": "white"}
    with matplotlib.rc_context(settings):
        height = 1.6 + 0.42 * (len(rows) + len(pieces))
        figure = Figure(figsize=(8, height), layout="constrained")
        ratios = [len(rows), max(1, len(pieces))]
        axes = figure.subplots(2, 1, height_ratios=ratios, sharex=True, squeeze=False)[:, 0]
        titles = ("Parts of the model", "Inside attention and FFNs")
        for axis, title, group in zip(axes, titles, (rows, pieces), strict=True):
            _bars(axis, title, group)
        axes[1].set_xlabel("share of the whole, %")
        handles = axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower right", ncols=2, frameon=False)
        figure.suptitle(
            f"{Path(profile['model']).name}: {profile['milliseconds']:.1f} ms for"
            f" {profile['batch']} x {profile['tokens']} tokens on {profile['device']}",
            color=INK,
            x=0.01,
            ha="left",
        )
        figure.savefig(path, dpi=130)


def _bars(axis: Any, title: str, rows: list[tuple[str, dict[str, Any]]]) -> None:
    names = [name for name, _ in rows]
    for key, label, look, shift in (
        ("time_share", "time", MAIN, -0.2),
        ("flops_share", "FLOPs", RIVAL, 0.2),
    ):
        values = [100 * row[key] for _, row in rows]
        places = [index + shift for index in range(len(rows))]
        bars = axis.barh(places, values, height=0.38, color=look[0], label=label)
        axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.1)
    axis.set_title(title)
