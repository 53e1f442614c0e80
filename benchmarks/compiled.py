"""The contract under Inductor: compiled equals eager, forward and backward, fp32 and bf16.

    python benchmarks/compiled.py [--minutes 10] [--only WORDS ...]

Every component at its defaults and in the variants that its tests declare, and the presets at 25 %.
The test suite holds the same under aot_eager; Inductor compiles for minutes, so it runs here. No
configuration is begun after `--minutes`; the next call goes on with those that are left, as long as
the source and torch are the same. Writes `benchmarks/results/compiled-DATE.json`; exits with 1
where a configuration differs, breaks, or was not reached.

A result holds where compiled is within the bound of eager. In bf16 a gradient that is a sum of many
(a gate's) can lose more digits than that in eager itself: it also holds where compiled is no more
than twice as far from fp64, same weights, as eager is; the row then says so (`rounding`).
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from undense.contract import Config, DenseShape, build
from undense.ffn.presets import resolve
from undense.files import write_json
from undense.measure.timing import environment

ROOT = Path(__file__).resolve().parent.parent
PARTIAL = ROOT / "runs" / "compiled-partial.json"
DIM = 48  # of the contract tests, whose variants are made for it
PRESETS = ("ultra-25", "ultra-all-25", "narrow-25", "seed")
# bf16 keeps 8 bits and Inductor rounds at other places than eager does: a few roundings in a row.
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


def configurations() -> dict[str, Config]:
    """What the contract tests run over, by name, and the presets."""
    sys.path.insert(0, str(ROOT / "tests" / "ffn"))
    from test_contract import label, variants

    shape = DenseShape(dim=DIM, hidden=4 * DIM)
    found = {label(config): config for config in variants()}
    return found | {name: resolve(name, shape) for name in PRESETS}


def measured(config: Config, dtype: torch.dtype) -> dict[str, Any]:
    """Largest differences, relative to the largest number of the eager result, and seconds."""
    started = time.perf_counter()
    torch.manual_seed(0)
    torch.compiler.reset()
    component = build(DIM, config).to(dtype)
    x, y = (torch.randn(2, 13, DIM, dtype=dtype) for _ in range(2))
    eager = results(component, component, x, y)
    compiled = results(component, torch.compile(component, fullgraph=True), x, y)
    differences = {name: _relative(compiled[name], value) for name, value in eager.items()}
    found: dict[str, Any] = {"forward": differences.pop("output")}
    if differences:
        found["backward"] = max(differences.values())
    bound = BOUNDS[dtype]
    found["ok"] = max(found.values()) <= bound
    if not found["ok"] and dtype == torch.bfloat16:
        exact = build(DIM, config).double()
        exact.load_state_dict(component.state_dict())
        truth = results(exact, exact, x.double(), y.double())
        beyond = {
            name: [_relative(result[name].double(), truth[name]) for result in (compiled, eager)]
            for name, value in eager.items()
            if _relative(compiled[name], value) > bound
        }
        found["ok"] = all(ours <= 2 * theirs for ours, theirs in beyond.values())
        found["rounding"] = beyond  # errors against fp64: compiled, eager
    return found | {"seconds": round(time.perf_counter() - started, 1)}


def results(
    component: nn.Module, call: Callable[[Tensor], Tensor], x: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """What `call` puts out, and the gradients of its product with `y`, by name."""
    x = x.clone().requires_grad_()
    output = call(x)
    found = {"output": output.detach()}
    if output.requires_grad:
        ends = {"x": x, **dict(component.named_parameters())}
        grads = torch.autograd.grad((output * y).sum(), list(ends.values()), allow_unused=True)
        pairs = zip(ends, grads, strict=True)
        found |= {name: grad for name, grad in pairs if grad is not None}
    return found


def _relative(got: Tensor, wanted: Tensor) -> float:
    scale = wanted.abs().max().clamp_min(1e-12)
    return ((got - wanted).abs().max() / scale).item()


def row(config: Config) -> dict[str, Any]:
    """Both dtypes of one configuration; an error of the compiler is a result too."""
    found: dict[str, Any] = {}
    for dtype in BOUNDS:
        try:
            found[str(dtype)] = measured(config, dtype)
        except Exception as error:  # whatever Inductor or the C++ compiler raises
            lines = str(error).strip().splitlines() or [""]
            found[str(dtype)] = {"error": f"{type(error).__name__}: {lines[0]}", "ok": False}
    return found


def identity() -> str:
    """Of all that a result depends on: rows of other source or another torch are not gone on with.

    The tests' variants count as source."""
    digest = sha256(torch.__version__.encode())
    for path in sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "tests" / "ffn").glob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def earlier_rows(key: str) -> dict[str, Any]:
    """What an earlier call left of the same source."""
    if not PARTIAL.is_file():
        return {}
    kept = json.loads(PARTIAL.read_text(encoding="utf-8"))
    return kept["rows"] if kept["identity"] == key else {}


def main() -> int:
    parser = argparse.ArgumentParser(description="The contract under Inductor.")
    parser.add_argument("--minutes", type=float, default=10, help="begin nothing after these")
    parser.add_argument("--only", nargs="*", help="names that begin so; writes no result file")
    options = parser.parse_args()
    started = time.perf_counter()
    wanted = configurations()
    if options.only:
        starts = tuple(options.only)
        wanted = {name: c for name, c in wanted.items() if name.startswith(starts)}
    key = identity()
    rows = {} if options.only else earlier_rows(key)
    for number, (name, config) in enumerate(wanted.items(), 1):
        if name in rows or time.perf_counter() - started > 60 * options.minutes:
            continue
        rows[name] = row(config)
        if not options.only:
            PARTIAL.parent.mkdir(exist_ok=True)
            write_json(PARTIAL, {"identity": key, "rows": rows})
        print(f"[{number}/{len(wanted)}] {name}: {rows[name]}", flush=True)
    failed = [
        f"{name} {dtype}"
        for name, found in rows.items()
        for dtype, result in found.items()
        if not result["ok"]
    ]
    left = [name for name in wanted if name not in rows]
    today = datetime.date.today().isoformat()
    if not options.only:
        result = {
            "created": today,
            "command": "python benchmarks/compiled.py",
            "environment": environment(),
            "dim": DIM,
            "bounds": {str(dtype): bound for dtype, bound in BOUNDS.items()},
            "configurations": rows,
            "failed": failed,
            "not_run": left,
        }
        write_json(ROOT / "benchmarks" / "results" / f"compiled-{today}.json", result)
        if not left:
            PARTIAL.unlink(missing_ok=True)
    print("failed:", ", ".join(failed) or "none")
    if left:
        print("not reached, run the same command again:", ", ".join(left))
    return 1 if failed or left else 0


if __name__ == "__main__":
    sys.exit(main())
