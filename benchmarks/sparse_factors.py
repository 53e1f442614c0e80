"""Is a sparse factor faster than a dense one? The gathered product against a dense matmul and CSR.

    python benchmarks/sparse_factors.py

At GPT-2's width (768 -> 3072): a dense factor, `SparseLinear` at every share of its rows, the CSR
product of the same matrix, and the random signed expansion beside the dense matmul that it
stands for; at 1, 16 and 128 tokens, arms in turn, median of 15 rounds, one thread. Writes
`benchmarks/results/sparse-factors-DATE.json` and prints the table; below 1 is faster than dense.
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from undense.files import write_json
from undense.measure.timing import environment, interleaved
from undense.ops.block_linear import BlockLinear
from undense.ops.linear_map import matrix
from undense.ops.sparse_linear import SparseLinear
from undense.ops.sparse_signs import SparseSigns

ROOT = Path(__file__).resolve().parent.parent
FAN_IN, FAN_OUT = 768, 3072
SHARES = (0.5, 0.25, 0.125, 0.0625)
TOKENS = (1, 16, 128)
ROUNDS = 15

Arm = Callable[[Tensor], Tensor]


def arms() -> dict[str, Arm]:
    found: dict[str, Arm] = {"dense": BlockLinear(FAN_IN, FAN_OUT, blocks=1, bias=False)}
    for share in SHARES:
        sparse = SparseLinear(FAN_IN, FAN_OUT, blocks=1, bias=False, keep=share)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
            compressed = matrix(sparse).to_sparse_csr()
        found[f"gathered {share:.1%}"] = sparse
        found[f"CSR {share:.1%}"] = lambda x, c=compressed: (c @ x.t()).t()
    for per_row in (1, 4, 16):
        found[f"signs, {per_row} a row"] = SparseSigns(FAN_IN, FAN_OUT, per_row=per_row, seed=0)
    return found


def main() -> None:
    timed: dict[str, dict[str, dict[str, object]]] = {}
    ratios: dict[str, list[float]] = {}
    for tokens in TOKENS:
        x = torch.randn(tokens, FAN_IN)
        calls = {name: lambda a=arm, rows=x: a(rows) for name, arm in arms().items()}
        with torch.no_grad():
            timings = interleaved(calls, rounds=ROUNDS, warmup=3, threads=1)
        for name, timing in timings.items():
            timed.setdefault(name, {})[str(tokens)] = timing.to_dict()
            ratio = timing.median_ms / timings["dense"].median_ms
            ratios.setdefault(name, []).append(ratio)
    today = datetime.date.today().isoformat()
    result = {
        "created": today,
        "command": "python benchmarks/sparse_factors.py",
        "environment": environment(),
        "fan_in": FAN_IN,
        "fan_out": FAN_OUT,
        "times_ms": timed,
    }
    write_json(ROOT / "benchmarks" / "results" / f"sparse-factors-{today}.json", result)
    print("| factor | time over dense at " + " / ".join(map(str, TOKENS)) + " tokens |\n|---|---|")
    for name, values in ratios.items():
        print(f"| {name} | {' / '.join(f'{value:.2f}' for value in values)} |")


if __name__ == "__main__":
    main()
