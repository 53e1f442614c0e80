"""The most memory that this process had in use, ever or since a mark."""

from __future__ import annotations

import gc
import resource
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def peak_megabytes() -> float:
    """Most memory so far: of the GPU where one is in use, else of the process.

    On Linux it is the kernel's own mark of this process image: what `getrusage` tells begins, for a
    child, at the peak of the parent that started it.
    """
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1]) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def mark_peak() -> bool:
    """Let the peak begin at what is in use now; whether the system does that."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True
