"""Where the time of GPT-2 goes, by what the counter knows of it: counted, zero cost, uncounted.

    python benchmarks/attribution.py

Forward and backward of a randomly initialised GPT-2 on the CPU, one thread, median of the rounds.
The time is that of the kernels that PyTorch dispatches. Operations that only move or draw numbers
have an exact count, 0 FLOPs: their share is shown by itself beside that of operations that compute.
Writes `benchmarks/results/attribution-DATE.json`; exit code 1 if operations that have no formula,
and are not known to cost nothing either, take more than 1 %.
"""

from __future__ import annotations

import datetime
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import GPT2Config, GPT2LMHeadModel

from undense.files import write_json
from undense.measure.count import Count
from undense.measure.flops import count_flops
from undense.measure.timing import environment

ROOT = Path(__file__).resolve().parent.parent
MODELS: dict[str, dict[str, int]] = {
    "4 layers of 256": {"n_layer": 4, "n_embd": 256, "n_head": 4},
    "2 layers of 768": {"n_layer": 2, "n_embd": 768, "n_head": 12},
}
TOKENS, BATCH, ROUNDS, ENOUGH = 256, 2, 5, 0.99


PASSES = ("forward", "forward and backward", "forward and backward without dropout")


def counted(sizes: dict[str, int], passes: str) -> Count:
    """One forward, and on the way back the loss and its gradients."""
    model = GPT2LMHeadModel(GPT2Config(**sizes)).train(passes == "forward and backward")
    ids = torch.randint(0, 50257, (BATCH, TOKENS))
    if passes != "forward":
        return count_flops(lambda: model(input_ids=ids, labels=ids), model=model, backward=True)
    with torch.no_grad():
        return count_flops(lambda: model(input_ids=ids), model=model)


def shares(rounds: list[Count]) -> dict[str, Any]:
    """Medians over the rounds of every operation's share of the time."""
    kinds = ("by_op", "zero_cost_ops", "uncounted_ops")
    names = {kind: {name for count in rounds for name in getattr(count, kind)} for kind in kinds}

    def share(kind: str, name: str) -> float:
        return statistics.median(
            getattr(count, kind)[name].seconds / count.seconds for count in rounds
        )

    listed = {
        kind: dict(sorted(((n, share(kind, n)) for n in names[kind]), key=lambda item: -item[1]))
        for kind in kinds
    }
    last = rounds[-1]
    return {
        "counted": statistics.median(
            1 - count.zero_cost_share - count.uncounted_share for count in rounds
        ),
        "zero_cost": statistics.median(count.zero_cost_share for count in rounds),
        "uncounted": statistics.median(count.uncounted_share for count in rounds),
        "seconds": statistics.median(count.seconds for count in rounds),
        "flops": {"forward": last.forward, "backward": last.backward},
        "counted_operations": listed["by_op"],
        "zero_cost_operations": listed["zero_cost_ops"],
        "uncounted_operations": listed["uncounted_ops"],
    }


def main() -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: dict[str, dict[str, Any]] = {}
    for model, sizes in MODELS.items():
        for passes in PASSES:
            counted(sizes, passes)  # warms up
            rows[f"{model}, {passes}"] = shares([counted(sizes, passes) for _ in range(ROUNDS)])
    today = datetime.date.today().isoformat()
    result = {
        "created": today,
        "command": "python benchmarks/attribution.py",
        "environment": environment(),
        "tokens": TOKENS,
        "batch": BATCH,
        "rounds": ROUNDS,
        "rows": rows,
    }
    write_json(ROOT / "benchmarks" / "results" / f"attribution-{today}.json", result)
    table = Table("GPT-2", "counted", "zero cost", "uncounted", "largest of zero cost, uncounted")
    for name, row in rows.items():
        largest = [*row["uncounted_operations"].items(), *row["zero_cost_operations"].items()][:4]
        table.add_row(
            name,
            *(f"{row[kind]:.2%}" for kind in ("counted", "zero_cost", "uncounted")),
            ", ".join(f"{op} {share:.2%}" for op, share in largest),
        )
    Console(width=160).print(table)
    return 0 if all(1 - row["uncounted"] >= ENOUGH for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
