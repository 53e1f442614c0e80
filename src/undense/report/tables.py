"""The rows of a report's tables, every number already written as it will be read."""

from __future__ import annotations

from dataclasses import dataclass

from undense.report.numbers import change, duration, exact, percent, short, signed
from undense.report.run import Arm, Node, Run


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number, what stands small beneath it, and the exact value for whoever points at it."""

    value: str
    note: str = ""
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arm in the table of arms."""

    arm: str
    title: str
    reference: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One node of a cost tree, indented by `depth`."""

    depth: int
    name: str
    forward: str
    share: str
    macs: str
    weights: str


def arm_rows(run: Run) -> list[Row]:
    """One row an arm, in the order in which they ran."""
    return [_row(run, arm) for arm in run.arms.values()]


def _row(run: Run, arm: Arm) -> Row:
    dense = run.dense
    reference = arm.name == run.reference
    recovered = run.recovered(arm)
    cells = [
        Cell(value=f"{arm.loss:.3f}", note="" if reference else signed(arm.loss - dense.loss)),
        Cell(value=f"{arm.perplexity:.2f}"),
        Cell(value="–" if recovered is None else percent(recovered, 1)),
        _against(arm.ffn_flops, dense.ffn_flops, reference),
        Cell(value=short(arm.ffn_macs), title=exact(arm.ffn_macs)),
        _against(arm.model_flops, dense.model_flops, reference),
        _against(arm.parameters, dense.parameters, reference),
        *(_time(run, arm, tokens, reference) for tokens in run.tokens),
    ]
    return Row(arm=arm.name, title=arm.title, reference=reference, cells=tuple(cells))


def _against(value: float, dense: float, reference: bool) -> Cell:
    note = "" if reference else change(value / dense)
    return Cell(value=short(value), note=note, title=exact(value))


def _time(run: Run, arm: Arm, tokens: int, reference: bool) -> Cell:
    spread = arm.times[tokens]
    low, high = (duration(spread.low), duration(spread.high))
    title = f"median {duration(spread.center)}, quartiles {low} to {high}"
    if reference:
        return Cell(value=duration(spread.center), note=f"{low} … {high}", title=title)
    ratio = run.time_ratio(arm, tokens)
    return Cell(
        value=change(ratio.center),
        note=f"{signed(100 * (ratio.low - 1), 0)} … {change(ratio.high)}",
        title=title,
    )


def cost_parts(node: Node) -> list[Part]:
    """The tree of one FFN for one token, parents first."""
    whole = node.forward
    return [
        Part(
            depth=depth,
            name=part.name,
            forward=exact(part.forward),
            share=percent(part.forward / whole, 1) if whole else "–",
            macs=exact(part.macs),
            weights=exact(part.weights),
        )
        for depth, part in node.walk()
        if part.forward or depth == 0
    ]
