"""Noticing graphs that Inductor compiled: what it fused never reaches PyTorch's dispatcher."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

FUSED = "inductor.compiled_graph"
"""The name under which such graphs are listed among the uncounted operations."""

INVISIBLE = (
    "Inductor's fused kernels are invisible to the counter, so that these figures are too low;"
    ' compile with torch.compile(…, backend="aot_eager") for counting'
)


@contextmanager
def watch_inductor(ran: Callable[[float], None]) -> Iterator[None]:
    """Inside the block, `ran(seconds)` follows every run of a graph that Inductor compiled.

    PyTorch has no hook for this; the class of such graphs is given another `__call__` meanwhile.
    """
    from torch._inductor.output_code import CompiledFxGraph

    original = CompiledFxGraph.__call__

    def call(self: CompiledFxGraph, inputs: Sequence[Any]) -> Any:
        start = time.perf_counter()
        output = original(self, inputs)
        ran(time.perf_counter() - start)
        return output

    CompiledFxGraph.__call__ = call
    try:
        yield
    finally:
        CompiledFxGraph.__call__ = original
