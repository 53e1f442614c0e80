"""Token-chosen blocks on a GPU, when there is one: the default presets by Triton beside dense.

    python benchmarks/gpu_blocks.py [--widths 768 ...] [--tokens 1 ...]
    UNDENSE_KERNELS=reference python benchmarks/gpu_blocks.py    # the same in plain PyTorch

Every arm is first held against itself in fp64, on the input that is timed; none that is wrong is
timed, and the script exits with 1. Forward without gradients, and forward and backward, eager;
weights are warm, so that a small FFN may lie in the cache of the card. fp32 products are exact
(no TF32). Writes `benchmarks/results/gpu-blocks-PATH-DATE.json`. It has not been run on hardware.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from undense.contract import FFNComponent
from undense.files import write_json
from undense.kernels.grouped import on_gpu
from undense.measure.ffn_arms import DENSE, TORCH_DTYPES, arms_at
from undense.measure.oracle import check, forward_and_back
from undense.measure.ratios import realised, speedup, times_less
from undense.measure.timing import environment, interleaved

RESULTS = Path(__file__).resolve().parent / "results"
SPECS = ("ultra-25", "ultra-12", "narrow-25")
ROUNDS = 20


def forward(ffn: FFNComponent, x: Tensor) -> object:
    with torch.no_grad():
        return ffn(x)


def step(ffn: FFNComponent, x: Tensor, received: Tensor) -> object:
    return forward_and_back(ffn, [x, *ffn.parameters()], x, received)


def prepared(
    dim: int, tokens: int, dtype: str, *, training: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, Callable[[], object]]]:
    """What is known of each arm before it is timed, and the calls of those that are right."""
    x = torch.randn(1, tokens, dim).to(TORCH_DTYPES[dtype])
    received = torch.randn(x.shape).to(x.dtype)
    entries: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], object]] = {}
    for arm in arms_at(SPECS, dim, gated=False):
        if arm.config is None:
            entries[arm.name] = {"status": arm.why}
            continue
        ffn = arm.build(TORCH_DTYPES[dtype], training=training)
        found = check(ffn, x, training=training)
        entries[arm.name] = {
            "status": "ok" if found.ok else "wrong: differs from its fp64 reference; not timed",
            "check": found.to_dict(),
            "flops": arm.flops(tokens, training=training),
        }
        if found.ok:
            start = x.clone().requires_grad_()
            calls[arm.name] = (
                partial(step, ffn, start, received) if training else partial(forward, ffn, x)
            )
    return entries, calls


def cell(dim: int, tokens: int, dtype: str, *, training: bool) -> dict[str, Any]:
    """All arms at one size, in turns."""
    with torch.device("cuda"):  # not while timing: torch would ask about every call
        entries, calls = prepared(dim, tokens, dtype, training=training)
    times = interleaved(calls, rounds=ROUNDS, warmup=3) if calls else {}
    for name, timing in times.items():
        entries[name] |= timing.to_dict()
        if DENSE in times:
            ratio = speedup(times[DENSE], timing)
            less = times_less(entries[DENSE]["flops"], entries[name]["flops"])
            entries[name] |= ratio | {
                "flops_less": less,
                "realised": realised(ratio["speedup"], less),
            }
    mode = "training" if training else "forward"
    return {"dim": dim, "tokens": tokens, "dtype": dtype, "mode": mode, "arms": entries}


def main() -> int:
    parser = argparse.ArgumentParser(description="Token-chosen blocks on a GPU.")
    parser.add_argument("--widths", type=int, nargs="+", default=[768, 2048, 4096])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 16, 128, 1024, 8192])
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(
            "gpu_blocks: torch sees no GPU; run it where there is one, with a build of torch for it"
        )
    path, reason = on_gpu()
    print(f"{torch.cuda.get_device_name()}, kernels: {path} ({reason})")
    sizes = [
        (dim, tokens, dtype, training)
        for dim in options.widths
        for tokens in options.tokens
        for dtype in TORCH_DTYPES
        for training in (False, True)
    ]
    cells = []
    for dim, tokens, dtype, training in tqdm(sizes):
        cells.append(cell(dim, tokens, dtype, training=training))
    today = datetime.date.today().isoformat()
    result = {
        "created": today,
        "command": "python benchmarks/gpu_blocks.py",
        "environment": environment(),
        "kernels": {"path": path, "reason": reason},
        "cells": cells,
    }
    write_json(RESULTS / f"gpu-blocks-{path}-{today}.json", result)
    print("| width | tokens | type | mode | dense ms | times faster |\n|---|---|---|---|---|---|")
    wrong = 0
    for each in cells:
        arms = each["arms"]
        wrong += sum(entry["status"].startswith("wrong") for entry in arms.values())
        shown = ", ".join(
            f"{name} {entry['speedup']:.2f}" if "speedup" in entry else f"{name} {entry['status']}"
            for name, entry in arms.items()
            if name != DENSE
        )
        size = f"| {each['dim']} | {each['tokens']} | {each['dtype']} | {each['mode']}"
        print(f"{size} | {arms[DENSE].get('median_ms', float('nan')):.3f} | {shown} |")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
