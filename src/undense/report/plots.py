"""The plots of a report, each an SVG element: what the tables say, in the same colours."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from undense.report.numbers import counted, percent, short, signed, tick
from undense.report.run import Arm, Node, Point, Run, Spread
from undense.report.style import INK, RULE, SOFT, Look, apart, canvas, looks, svg

ROW = 0.23  # inches for a row of a horizontal plot


def loss_against_flops(run: Run) -> str:
    """Held-out loss over the FLOPs of one FFN: all arms, and again without the floor."""
    panels = [(list(run.arms.values()), "all arms")]
    if run.floor is not None:
        near = [arm for name, arm in run.arms.items() if name != run.floor]
        panels.append((near, "the same without the no-FFN arm"))
    figure, columns = canvas(3.9, len(panels))
    drawn = looks(run)
    for axes, (arms, title) in zip(columns, panels, strict=True):
        losses = [arm.loss for arm in arms]
        room = max((max(losses) - min(losses)) * 0.22, 0.004)
        axes.set(xlim=(-4, 134), ylim=(min(losses) - room, max(losses) + room), title=title)
        axes.set_xlabel(f"FLOPs of one FFN, % of the dense one's {short(run.dense.ffn_flops)}")
        axes.set_xticks([0, 25, 50, 75, 100])
        low, high = axes.get_ylim()
        axes.axhline(run.dense.loss, color=drawn[run.reference].color, lw=0.8, ls=(0, (4, 3)))
        places: dict[str, float] = {}
        for group in _neighbours(arms):
            placed = apart([arm.loss for arm in group], 0.075 * (high - low), low, high)
            places |= {arm.name: place for arm, place in zip(group, placed, strict=True)}
        for arm in arms:
            look, x, place = (drawn[arm.name], 100 * arm.ffn_share, places[arm.name])
            axes.plot([x, x + 4], [arm.loss, place], color=look.color, lw=0.6, alpha=0.6)
            axes.plot(x, arm.loss, look.marker, color=look.color, ms=8, mec="white", mew=0.8)
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.9}
            axes.text(
                x + 4.8, place, arm.name, color=look.color, va="center", weight="bold", bbox=box
            )
    columns[0].set_ylabel("held-out loss (nats a token)")
    return svg(figure, "loss", "Held-out loss of every arm over the FLOPs of its FFN")


def _neighbours(arms: Sequence[Arm]) -> list[list[Arm]]:
    """Arms whose FLOPs are so close that their names would be written over one another."""
    groups: list[list[Arm]] = []
    for arm in sorted(arms, key=lambda arm: arm.ffn_share):
        if groups and arm.ffn_share - groups[-1][-1].ffn_share < 0.2:
            groups[-1].append(arm)
        else:
            groups.append([arm])
    return groups


def flops_beside_time(run: Run) -> str:
    """By tokens and arm: the FLOP ratio (hollow) tied to the measured time ratio (filled)."""
    arms = [arm for arm in run.arms.values() if arm.name != run.reference]
    rows = len(run.tokens) * (len(arms) + 1)
    figure, (model, ffn) = canvas(0.8 + ROW * rows, 2, widths=(1.15, 1))
    base = run.dense.model_flops
    _dumbbells(
        model, run, arms, lambda arm: arm.model_flops / base, lambda a, n: run.time_ratio(a, n)
    )
    _dumbbells(ffn, run, arms, lambda arm: arm.ffn_share, lambda a, n: run.ffn_time_ratio(a, n))
    for group, tokens in enumerate(run.tokens):
        place = group * (len(arms) + 1)
        model.text(0, place, counted(tokens, "token"), va="center", color=SOFT, weight="bold")
    model.set_title("whole model")
    ffn.set_title("one FFN alone")
    ffn.set_yticklabels([])
    return svg(figure, "time", "FLOP ratio beside measured time ratio, by number of tokens")


def _dumbbells(
    axes: Axes,
    run: Run,
    arms: Sequence[Arm],
    flops: Callable[[Arm], float],
    time: Callable[[Arm, int], Spread],
) -> None:
    drawn = looks(run)
    places: list[float] = []
    names: list[str] = []
    for group, tokens in enumerate(run.tokens):
        top = group * (len(arms) + 1)
        if group % 2 == 0:
            axes.axhspan(top - 0.55, top + len(arms) + 0.45, color=RULE, alpha=0.28, lw=0)
        for row, arm in enumerate(arms, 1):
            y, look, measured = (top + row, drawn[arm.name], time(arm, tokens))
            promised = flops(arm)
            axes.plot([promised, measured.center], [y, y], color=look.color, lw=1, alpha=0.45)
            axes.plot(promised, y, "o", ms=5.5, mfc="white", mec=look.color, mew=1.3)
            axes.plot([measured.low, measured.high], [y, y], color=look.color, lw=3.2, alpha=0.55)
            axes.plot(measured.center, y, "o", ms=6, color=look.color)
            places.append(y)
            names.append(arm.name)
    ends = [1.0] + [time(arm, n).high for arm in arms for n in run.tokens]
    axes.set(
        xlim=(-0.02 * max(ends), max(ends) * 1.06),
        ylim=(len(run.tokens) * (len(arms) + 1) - 0.5, -0.6),
    )
    axes.axvline(1, color=drawn[run.reference].color, lw=1.2)
    axes.set_yticks(places, names)
    for label, arm in zip(axes.get_yticklabels(), list(arms) * len(run.tokens), strict=True):
        label.set_color(drawn[arm.name].color)
    axes.tick_params(length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("ratio to dense")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))


def cost_by_part(run: Run) -> str:
    """FLOPs of one FFN for one token, by part, one bar an arm."""
    arms = [arm for arm in run.arms.values() if arm.cost.forward]
    figure, (axes,) = canvas(0.75 + 0.56 * len(arms))
    drawn = looks(run)
    full = max(arm.cost.forward for arm in arms)
    for row, arm in enumerate(arms):
        _stack(axes, row, arm.cost, drawn[arm.name], full)
        share = f"{short(arm.cost.forward)}, {percent(arm.ffn_share)}"
        axes.text(arm.cost.forward + 0.006 * full, row, share, va="center", color=SOFT)
    axes.set_yticks(range(len(arms)), [arm.name for arm in arms])
    for label, arm in zip(axes.get_yticklabels(), arms, strict=True):
        label.set_color(drawn[arm.name].color)
        label.set_fontweight("bold")
    axes.set(xlim=(0, full * 1.13), ylim=(len(arms) - 0.45, -0.6))
    axes.set_xlabel("FLOPs of one FFN for one token")
    axes.tick_params(length=0)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: tick(x)))
    return svg(figure, "cost", "FLOPs of one FFN by component")


def _stack(axes: Axes, row: int, cost: Node, look: Look, full: int) -> None:
    parts = [part for part in cost.parts or (cost,) if part.forward]
    left = 0
    unlabelled: list[str] = []
    for step, part in enumerate(parts):
        color = look.tint(step, len(parts))
        axes.barh(row, part.forward, 0.56, left=left, color=color, edgecolor="white", lw=0.8)
        needed = 0.0088 * full * (len(part.name) + 1.5)
        if part.forward > needed:
            dark = step / max(len(parts) - 1, 1) < 0.5
            axes.text(
                left + part.forward / 2,
                row,
                part.name,
                ha="center",
                va="center",
                color="white" if dark else INK,
                fontsize=8.5,
            )
        else:
            unlabelled.append(part.name)
        left += part.forward
    if unlabelled:
        words = f"without a label, from the left: {', '.join(unlabelled)}"
        axes.text(0, row + 0.41, words, va="center", color=SOFT, fontsize=7.5)


def training_curves(run: Run) -> str:
    """Distillation error and fine-tuning loss over the steps that every arm was given."""
    figure, (distil, tune) = canvas(3.5, 2)
    drawn = looks(run)
    for name, arm in run.arms.items():
        stages = {
            stage: [point for point in arm.curve if point.stage == stage]
            for stage in ("distill", "finetune")
        }
        first = max((point.step for point in stages["distill"]), default=0)
        _curve(distil, stages["distill"], drawn[name], 0, name)
        _curve(tune, stages["finetune"], drawn[name], first, name)
    distil.set(title="layer-wise distillation", ylabel="relative error to the dense FFN")
    tune.set(title="fine-tuning", ylabel="training loss (nats a token)")
    for axes in (distil, tune):
        axes.set_xlabel("training step, both stages counted")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if not axes.get_lines():
            axes.text(0.5, 0.5, "no arm had this stage", ha="center", transform=axes.transAxes)
    lines = {line.get_label(): line for axes in (distil, tune) for line in axes.get_lines()}
    named = [lines[name] for name in run.arms if name in lines]
    figure.legend(
        handles=named, loc="outside lower center", ncols=6, frameon=False, labelcolor="linecolor"
    )
    return svg(figure, "curves", "Training curves of every arm")


def _curve(axes: Axes, points: Sequence[Point], look: Look, shift: int, name: str) -> None:
    if not points:
        return
    steps = [shift + point.step for point in points]
    losses = [point.loss for point in points]
    wide = len(losses) // 16  # points on either side of a moving mean
    smooth = [statistics.fmean(losses[max(0, i - wide) : i + wide + 1]) for i in range(len(losses))]
    if wide:
        axes.plot(steps, losses, color=look.color, lw=0.7, alpha=0.3)
    axes.plot(steps, smooth, color=look.color, lw=1.6, label=name)


def seed_spread(run: Run) -> str | None:
    """Losses over the committed seeds beside this run's, and paired differences; None without."""
    seeds = run.seeds
    if seeds is None:
        return None
    names = [name for name in run.arms if name in seeds.arms and name != run.floor]
    rows = max(len(names), len(seeds.paired))
    figure, (losses, paired) = canvas(1.05 + 0.42 * rows, 2)
    drawn = looks(run)
    for row, name in enumerate(names):
        found = seeds.arms[name]
        _dots(losses, row, found.values, found.mean, drawn[name].color)
        losses.plot(
            run.arms[name].loss, row, "d", ms=8, mfc="white", mec=drawn[name].color, mew=1.5
        )
    for row, (pair, found) in enumerate(seeds.paired.items()):
        first = pair.split(" - ")[0]
        color = drawn[first].color if first in drawn else INK
        _dots(paired, row, found.values, found.mean, color)
    paired.axvline(0, color=INK, lw=1.2)
    losses.set(title=f"{len(seeds.seeds)} seeds, and this run", xlabel="held-out loss (nats)")
    paired.set(title="differences, same seed on both sides", xlabel="difference in loss (nats)")
    paired.xaxis.set_major_formatter(FuncFormatter(lambda x, _: signed(x)))
    for axes, ticks in ((losses, names), (paired, [p.replace(" - ", " − ") for p in seeds.paired])):
        axes.set_yticks(range(len(ticks)), ticks)
        axes.set_ylim(len(ticks) - 0.4, -0.6)
        axes.tick_params(length=0)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    return svg(figure, "seeds", "Spread over seeds")


def _dots(axes: Axes, row: int, values: Sequence[float], mean: Spread, color: str) -> None:
    axes.plot([mean.low, mean.high], [row, row], color=color, lw=7, alpha=0.25)
    axes.plot(values, [row] * len(values), "o", color=color, ms=4.5, alpha=0.75, mew=0)
    axes.plot([mean.center] * 2, [row - 0.22, row + 0.22], color=color, lw=2)
