"""Copies of a module's weights, taken in turn, so that a call finds none of them in the cache.

In a model of many layers every FFN has weights of its own; by the time a layer is called again the
others have pushed its weights out. One module called over and over is another thing: its weights
lie in the cache, and a decode step looks several times faster than it will be.
"""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

# The modules themselves take memory and time to copy; very small ones do not fill a cache.
MOST_COPIES = 2048
# Where the system does not tell the size of the last-level cache.
USUAL_CACHE = 64 * 2**20
# Share of the memory that is free which all copies together may take.
MEMORY_SHARE = 0.4


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """Modules equal but for where their weights lie; `span`: bytes of all their weights."""

    modules: Sequence[nn.Module]
    span: int

    def calls(self, call: Callable[[nn.Module], Any]) -> Callable[[], Any]:
        """A function of nothing that applies `call` to the next module each time."""
        turn = itertools.cycle(self.modules)
        return lambda: call(next(turn))


def weight_bytes(module: nn.Module) -> int:
    """Bytes of the parameters and buffers."""
    stored = itertools.chain(module.parameters(), module.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in stored)


def rotation(module: nn.Module, span: float) -> Rotation:
    """`module` and as many copies as fill `span` bytes, at most `MOST_COPIES` in all."""
    size = weight_bytes(module)
    count = min(MOST_COPIES, max(1, -(-int(span) // size))) if size else 1
    modules = [module, *(copy.deepcopy(module) for _ in range(count - 1))]
    return Rotation(modules=modules, span=count * size)


def wanted_span(arms: int, megabytes: float | None = None) -> float:
    """Bytes that the copies of one of `arms` arms should span: `megabytes`, by default twice the
    last-level cache; in either case no more than the free memory allows."""
    span = 2 * (last_level_cache() or USUAL_CACHE) if megabytes is None else megabytes * 1e6
    free = free_memory()
    return span if free is None else min(span, MEMORY_SHARE * free / max(1, arms))


def last_level_cache() -> int | None:
    """Bytes of the largest cache of the first processor, None where Linux does not tell."""
    found = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:], 1)
        found.append(int(text.rstrip("KMG")) * unit)
    return max(found, default=None)


def free_memory() -> int | None:
    """Bytes that can be had without swapping, None where the system does not tell."""
    listing = Path("/proc/meminfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return None
