"""What the live view costs: a training step of the bundled model with and without it.

    python benchmarks/live_overhead.py

A step as the demo takes it (8 blocks of 256 tokens, fp32), at the default interval of 10. The view
adds one hook a block to each forward and one reading every ten steps; both are timed by themselves,
since their sum is far below the noise of a step. Both arms also run in turn, for the record. Writes
`benchmarks/results/live-overhead-DATE.json`.
"""

from __future__ import annotations

import datetime
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from undense.convert.convert import convert_
from undense.files import write_json
from undense.measure.timing import environment
from undense.pipeline.live import EVERY, Live
from undense.train.tiny import tiny_model

ROOT = Path(__file__).resolve().parent.parent
ROUNDS, BATCH, CONTEXT = 12, 8, 256


def main() -> None:
    torch.set_num_threads(1)
    today = datetime.date.today().isoformat()
    arms = {"dense": None, "ultra-all-25": "ultra-all-25"}
    result: dict[str, Any] = {
        "created": today,
        "command": "python benchmarks/live_overhead.py",
        "environment": environment(),
        "every": EVERY,
        "arms": {name: measure(ffn) for name, ffn in arms.items()},
    }
    write_json(ROOT / "benchmarks" / "results" / f"live-overhead-{today}.json", result)
    for name, figures in result["arms"].items():
        print(name, figures)


def measure(ffn: str | None) -> dict[str, float]:
    model: Any = tiny_model().train()
    if ffn is not None:
        convert_(model, ffn, keep_dense=False)
    model.loss_type = "ForCausalLM"
    ids = torch.randint(model.config.vocab_size, (BATCH, CONTEXT))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with tempfile.TemporaryDirectory() as folder:
        plain, watched, readings = ([], [], [])
        for _ in range(ROUNDS):
            plain.append(seconds(step))
            with Live(model, folder) as live:
                watched.append(seconds(step))
                readings.append(seconds(lambda view=live: view.write(1)))
        with Live(model, folder) as live:
            x = torch.empty(BATCH, CONTEXT, model.config.n_embd)
            hooks = [
                hook for block in live.blocks for hook in block.module._forward_pre_hooks.values()
            ]
            noting = seconds(lambda: [hook(model, (x,)) for hook in hooks for _ in range(1000)])
    one = statistics.median(plain)
    added = noting / 1000 + statistics.median(readings) / EVERY
    return {
        "step_ms": 1e3 * one,
        "watched_step_ms": 1e3 * statistics.median(watched),
        "reading_ms": 1e3 * statistics.median(readings),
        "hooks_ms_per_step": noting,
        "share_of_step": added / one,
    }


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
