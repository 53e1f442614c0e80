"""The original proposal's cost tables beside our components: docs/proposal-claims.md and a JSON.

    python benchmarks/proposal_claims.py

Seconds, no training: every figure is a component's own `cost()`. Nothing about quality: what a
saving costs in loss is measured elsewhere (README, docs/log.md).
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from undense.files import write_json
from undense.pipeline.claims import proposal

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "python benchmarks/proposal_claims.py"


def main() -> None:
    today = datetime.date.today().isoformat()
    tables = proposal()
    result = {"created": today, "command": COMMAND, **tables}
    write_json(ROOT / "benchmarks" / "results" / f"proposal-claims-{today}.json", result)
    (ROOT / "docs" / "proposal-claims.md").write_text(document(tables))


def document(tables: dict[str, Any]) -> str:
    """The page, from the figures alone."""
    return "\n".join(
        [
            "# The proposal's cost tables, counted",
            "",
            f"Written by `{COMMAND}` (on a terminal: `undense flops --proposal`); do not edit."
            " The original proposal gives figures without a program behind them. Here each stands"
            " beside what our own components cost. FLOPs: a multiply-add is 2. MACs: a"
            " multiply-add is 1, which is how the proposal's tables count while calling it FLOPs."
            " Costs only: what a saving does to the loss is in the README and in docs/log.md.",
            "",
            *_token(tables["one_token_4096"]),
            *_small(tables["breakdown_128"]),
            *_claims(tables["claims"], tables["widths"]),
        ]
    )


def _token(by_keys: dict[str, list[dict[str, Any]]]) -> list[str]:
    near = {row["step"]: row for row in by_keys["1"]}
    far = {row["step"]: row for row in by_keys["2048"]}
    activation, ffn, small = (near["activation"], near["FFN"], near["residual and LayerNorm"])
    pairs, whole = (near["scores and weighted sum"], far["total"])
    share = far["FFN"]["macs"] / whole["macs"]
    lines = [
        "## One token through one layer, d = 4096",
        "",
        "Millions. The token sees itself alone (1), 2048 or 4096 positions.",
        "",
        "| step | claimed | MACs, 1 | MACs, 2048 | MACs, 4096 | FLOPs, 2048 |",
        "|---|---|---|---|---|---|",
    ]
    for first, second, third in zip(*(by_keys[k] for k in ("1", "2048", "4096")), strict=True):
        macs = " | ".join(f"{row['macs'] / 1e6:.3f}" for row in (first, second, third))
        lines.append(
            f"| {first['step']} | {first['claimed'] / 1e6:g} | {macs} |"
            f" {second['flops'] / 1e6:.3f} |"
        )
    return [
        *lines,
        "",
        "Where the table is wrong, in its own convention:",
        "",
        f"- The activation: 2 x 16384 is {2 * 16384:,}, not {activation['claimed'] / 1e6:g}"
        f" million; a factor of 1000. The FFN is {ffn['macs'] / 1e6:.1f} M, not"
        f" {ffn['claimed'] / 1e6:g} M ({ffn['claimed'] / ffn['macs'] - 1:+.0%}).",
        f"- Scores and weighted sum are not d^2 for one token: with one position they are"
        f" {pairs['macs']:,}, {pairs['claimed_over_macs']:,.0f} times less; they reach the"
        f" claimed {pairs['claimed'] / 1e6:g} M at 2048 positions and grow from there.",
        f"- Residual and LayerNorm: {small['macs']:,} (two norms at 4 a number), claimed"
        f" {small['claimed']:,.0f}; {small['macs'] / small['claimed']:.1f} times more, and still"
        " nothing.",
        f'- "FFN dominates, about twice attention": at 2048 positions it is'
        f" {far['FFN']['macs'] / far['attention']['macs']:.2f} times attention, {share:.0%} of the"
        " layer, not 66 %.",
        f"- Called FLOPs, the table is half of what it counts: {whole['flops'] / 1e6:.0f} M FLOPs"
        f" against {whole['claimed'] / 1e6:g} M.",
        "",
    ]


def _small(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "## One FFN at d = 128",
        "",
        "The preset `seed` is that composition. Savings against the dense total.",
        "",
        "| part | claimed | MACs | FLOPs | of dense, MACs |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['part']} | {row['claimed']:,.0f} | {row['macs']:,} | {row['flops']:,} |"
        f" {row['share_of_dense_macs']:.1%} |"
        for row in rows
    ]
    parts = [row for row in rows if row["part"] not in ("Total Dense", "Total Sparse")]
    worst = max(parts, key=lambda row: abs(row["macs"] / row["claimed"] - 1))
    return [
        *lines,
        "",
        f"In MACs every part is within {abs(worst['macs'] / worst['claimed'] - 1):.1%} of its"
        f' claim (furthest: {worst["part"]}). The proposal\'s column per part, "savings", is'
        " against the linear layer that the part does not replace, so it does not add up; the"
        " last column here does.",
        "",
    ]


def _claims(claims: list[dict[str, Any]], widths: list[int]) -> list[str]:
    lines = [
        "## Methods, at four widths",
        "",
        "Times fewer FLOPs than the dense FFN (in brackets: MACs). A saving is a setting: the last"
        " column says which setting meets the ends of the claimed range at d = 4096.",
    ]
    table = None
    for claim in claims:
        if claim["table"] != table:
            table = claim["table"]
            heads = " | ".join(f"d = {width}" for width in widths)
            lines += [
                "",
                f"### {table}",
                "",
                f"| method | claimed | component, setting | {heads} | range at d = 4096 |",
                "|---" * (4 + len(widths)) + "|",
            ]
        lines += _claim(claim, len(widths))
    return [*lines, ""]


def _claim(claim: dict[str, Any], widths: int) -> list[str]:
    low, high = claim["claimed_times_less"]
    claimed = f"{low:g}-{high:g}x" if high else f">{low:g}x"
    if claim["table"] == "Not in the proposal":
        claimed = ""
    head = f"| {claim['method']} | {claimed} | `{claim['component']}`"
    if claim["missing"]:
        return [f"{head}: no such component here |{' |' * (widths + 1)}"]
    knob = "; ".join(f"{end}: {_setting(value)}" for end, value in claim["knob"].items())
    by_setting: dict[str, list[dict[str, Any]]] = {}
    for row in claim["rows"]:
        by_setting.setdefault(row["setting"], []).append(row)
    lines = []
    for setting, rows in by_setting.items():
        cells = " | ".join(_cell(row, first=row is rows[0]) for row in rows)
        lines.append(f"{head}, {setting} | {cells} | {knob} |")
        knob = ""
    return lines


def _cell(row: dict[str, Any], *, first: bool) -> str:
    if "unavailable" in row:
        return f"not here ({row['unavailable'].partition(': ')[2]})" if first else "not here"
    if row["times_less"] is None:
        return "no FLOPs"
    return f"{row['times_less']:,.1f}x ({row['times_less_macs']:,.1f}x), {row['verdict']}"


def _setting(value: dict[str, Any]) -> str:
    if "unreachable" in value:
        return "out of reach (" + value["unreachable"].partition(": ")[2].partition(";")[0] + ")"
    return ", ".join(f"`{name}` {json.dumps(setting)}" for name, setting in value.items())


if __name__ == "__main__":
    main()
