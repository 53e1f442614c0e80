"""The plot of a comparison from scratch, from its result file alone: loss against every cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from undense.report.numbers import tick
from undense.report.style import FLOOR, INK, MAIN, OTHERS, REFERENCE, RIVAL, SETTINGS, SOFT

COSTS = (
    ("ffn_flops_share", "FLOPs of the FFN, share of dense"),
    ("training_flops", "FLOPs of the whole training"),
    ("ffn_parameter_share", "parameters of the FFN, share of dense"),
    ("training_seconds", "seconds of training"),
    ("sequence_ms", "milliseconds for a sequence, whole model"),
    ("token_ms", "milliseconds for a token, whole model"),
)

WIDE = 4  # costs this many times apart stand on a logarithmic axis


def draw_pareto(result: dict[str, Any], path: Path) -> Path:
    """A panel a cost: every arm's mean loss with its 95 % interval; the stairs are the front, the
    arms of which no other is both cheaper and better."""
    arms = {name: arm for name, arm in result["arms"].items() if arm["ffn_flops_share"] > 0}
    looks = _looks(list(arms))
    settings: Any = SETTINGS | {"figure.facecolor": "white", "axes.facecolor": "white"}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(15, 9), layout="constrained")
        panels = figure.subplots(2, 3, sharey=True).flatten()
        for axes, (key, label) in zip(panels, COSTS, strict=True):
            _panel(axes, arms, looks, key)
            axes.set_xlabel(label)
        for axes in panels[::3]:
            axes.set_ylabel("held-out loss, nats a token")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
        machine, base = (result["environment"], result["study"]["base"])
        left_out = [name for name in result["arms"] if name not in arms]
        note = f"; not drawn: {', '.join(left_out)}" if left_out else ""
        elsewhere = " | ".join(result.get("trained_elsewhere", ()))
        trained = f"; trained elsewhere: {elsewhere}" if elsewhere else ""
        figure.suptitle(
            f"From scratch: {base.get('host', 'gpt2')}, d = {base['hidden_size']},"
            f" {base['layers']} layers, {len(result['study']['seeds'])} seeds, each arm at its own"
            f" best rate{note}\n{machine['cpu']}, torch {machine['torch']},"
            f" {result['created']}{trained}",
            color=INK,
            fontsize=10,
            x=0.01,
            ha="left",
        )
        figure.savefig(path, dpi=110)
    return path


def _looks(arms: list[str]) -> dict[str, tuple[str, str]]:
    """Ours in the main colour, narrow in the rival's; markers tell budgets apart."""
    kinds = list(dict.fromkeys(name.rpartition("-")[0] or name for name in arms))
    fixed = {"dense": REFERENCE, "ultra": MAIN, "narrow": RIVAL, "low_rank": FLOOR}
    rest = [kind for kind in kinds if kind not in fixed]
    colors = fixed | {kind: OTHERS[i % len(OTHERS)] for i, kind in enumerate(rest)}
    return {name: colors[name.rpartition("-")[0] or name] for name in arms}


def _panel(
    axes: Axes, arms: dict[str, dict[str, Any]], looks: dict[str, tuple[str, str]], key: str
) -> None:
    points = {name: (arm[key], arm["mean"]) for name, arm in arms.items()}
    for name, (x, y) in points.items():
        color, marker = looks[name]
        low, high = arms[name]["ci95"] or (y, y)
        axes.plot([x, x], [low, high], color=color, lw=2, alpha=0.5)
        axes.plot(x, y, marker, color=color, ms=7, label=name)
        axes.annotate(
            name, (x, y), xytext=(5, 3), textcoords="offset points", color=color, fontsize=7.5
        )
    front: list[tuple[float, float]] = []
    for x, y in sorted(points.values()):
        if not front or y < front[-1][1]:
            front.append((x, y))
    axes.step(*zip(*front, strict=True), where="post", color=SOFT, lw=1, ls=(0, (4, 3)), zorder=0)
    if max(x for x, _ in points.values()) > WIDE * min(x for x, _ in points.values()):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
