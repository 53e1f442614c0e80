"""Peak memory of one arm at one workload, in a process of its own: no other arm's peak is in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch

from undense.errors import UndenseError
from undense.measure.ffn_arms import TORCH_DTYPES
from undense.measure.peak import mark_peak, peak_megabytes
from undense.pipeline.model_arms import DENSE, dense_model, replace_, timed_config
from undense.pipeline.workloads import Batch

# glibc otherwise keeps what was freed, and the peak would hold memory that nobody has.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


@dataclass(frozen=True, kw_only=True)
class MemoryTask:
    """What a process measures: one arm at one workload."""

    model: str
    arm: str
    dtype: str
    workload: str
    tokens: int
    new: int
    batch: int
    threads: int
    seed: int


def peak_memory(task: MemoryTask) -> dict[str, Any]:
    """Megabytes: `resident_mb` with the model built, `peak_mb` while it ran (both with the
    interpreter and its libraries), `weights_mb` alone. `marked` is false where the system cannot
    forget the peak of the building, which is then in `peak_mb`. Raises `UndenseError` where the
    process fails."""
    words = [sys.executable, "-m", "undense.pipeline.model_memory", json.dumps(asdict(task))]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env=os.environ | ALLOCATOR
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UndenseError(f"measuring the memory of {task.arm} ({task.workload}) failed: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def measured(task: MemoryTask) -> dict[str, Any]:
    """The same in this process."""
    torch.set_num_threads(task.threads)
    config = timed_config(task.model)
    model = dense_model(config, TORCH_DTYPES[task.dtype], task.seed)
    if task.arm != DENSE:
        replace_(model, task.arm)
    batch = Batch.drawn(config, batch=task.batch, tokens=task.tokens, new=task.new, seed=task.seed)
    marked = mark_peak()
    resident = peak_megabytes()
    batch.call(task.workload, model)()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return {
        "resident_mb": resident,
        "peak_mb": peak_megabytes(),
        "weights_mb": weights / 1e6,
        "marked": marked,
    }


if __name__ == "__main__":
    print(json.dumps(measured(MemoryTask(**json.loads(sys.argv[1])))))
