"""The contract under Inductor: compiled equals eager, forward and backward, for every component.

    python benchmarks/compiled.py

The test suite holds this under aot_eager; Inductor compiles for minutes, so it runs here. Writes
`benchmarks/results/compiled-DATE.json`; exits with 1 where a component differs.
"""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import torch

import undense.ffn  # noqa: F401  (registers the components)
from undense.contract import build, components, config_from_dict
from undense.files import write_json
from undense.measure.timing import environment

ROOT = Path(__file__).resolve().parent.parent
DIM = 96


def largest_difference(name: str, dtype: torch.dtype) -> dict[str, float]:
    """Relative to the largest number of the eager result."""
    torch.manual_seed(0)
    torch.compiler.reset()
    component = build(DIM, config_from_dict({"component": name})).to(dtype)
    compiled = torch.compile(component, fullgraph=True)
    x = torch.randn(2, 13, DIM, dtype=dtype, requires_grad=True)
    y = torch.randn(2, 13, DIM, dtype=dtype)
    eager, fast = component(x), compiled(x)
    result = {"forward": _relative(fast, eager)}
    if eager.requires_grad:
        (wanted,) = torch.autograd.grad((eager * y).sum(), x)
        (got,) = torch.autograd.grad((fast * y).sum(), x)
        result["backward"] = _relative(got, wanted)
    return result


def _relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    scale = wanted.abs().max().clamp_min(1e-12)
    return ((got - wanted).abs().max() / scale).item()


def main() -> int:
    bounds = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
    rows: dict[str, dict[str, dict[str, float]]] = {}
    failed = []
    for name in components():
        rows[name] = {}
        for dtype, bound in bounds.items():
            differences = largest_difference(name, dtype)
            rows[name][str(dtype)] = differences
            if max(differences.values()) > bound:
                failed.append(f"{name} {dtype}")
        print(name, rows[name], flush=True)
    today = datetime.date.today().isoformat()
    result = {
        "created": today,
        "command": "python benchmarks/compiled.py",
        "environment": environment(),
        "relative_differences": rows,
        "failed": failed,
    }
    write_json(ROOT / "benchmarks" / "results" / f"compiled-{today}.json", result)
    print("failed:", ", ".join(failed) or "none")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
