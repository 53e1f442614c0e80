"""The most memory that this process ever had in use."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch


def peak_bytes() -> int:
    """Of the GPU where one is in use, else the resident memory of the process.

    On Linux the kernel's own mark of this process image is read: what `getrusage` tells begins, for
    a child, at the peak of the parent that started it.
    """
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
