"""Spectral mixers by the compiled library: what lies between the projections, or a whole token."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from undense.kernels.library import native

PADDING = 16  # numbers that a row of the kernels' own tables is a multiple of

Word = int | Tensor | None


class Sizes(NamedTuple):
    """Of a mixer, in the order of `Spectral` in spectral_shapes.inc; 0 for a part missing."""

    dim: int
    heads: int
    features: int
    modes: int
    most: int
    chunk: int
    conv: int
    taps: int
    stride: int
    fan: int
    hidden: int


class Tables(NamedTuple):
    """Its weights and what follows from them, in the same order; None where a part is not there.
    Shapes: see spectral_shapes.inc."""

    short_taps: Tensor
    kernel: Tensor | None
    decay_bias: Tensor | None
    write_bias: Tensor | None
    powers: Tensor | None
    keys: Tensor | None
    reads: Tensor | None
    gate_bias: Tensor | None
    up: Tensor | None
    up_bias: Tensor | None
    down: Tensor | None
    down_bias: Tensor | None
    threshold: Tensor | None
    sharpness: Tensor | None
    residual: Tensor | None
    amplitude: Tensor | None
    frequency: Tensor | None
    shift: Tensor | None


def padded(count: int) -> int:
    """The least multiple of PADDING that is not less."""
    return -(-count // PADDING) * PADDING


def words(values: Sequence[Word]) -> ctypes.Array[ctypes.c_int64]:
    """A C structure of sizes and addresses; the tensors must live as long as it is used."""
    return (ctypes.c_int64 * len(values))(
        *[
            value if isinstance(value, int) else 0 if value is None else value.data_ptr()
            for value in values
        ]
    )


def run(name: str, mixer: ctypes.Array[ctypes.c_int64], given: Sequence[Word]) -> None:
    """`spectral_stretch` or `spectral_step` of a mixer (its sizes and tables) on `given`."""
    structure = words(given)
    if native(name, torch.float32)(mixer, structure, torch.get_num_threads()):
        raise MemoryError("spectral mixer: no memory for what lies between its steps")


def chunk_sums(x: Tensor, recent: Tensor, offset: int, chunk: int, chunks: int) -> Tensor:
    """Sums of the inputs of every chunk, and of those 1 … conv - 1 tokens before them: (chunks,
    conv, dim). `x` (time, dim) contiguous, the first in slot `offset` of its chunk; `recent`
    (conv - 1, dim): the inputs before."""
    (time, dim), conv = x.shape, len(recent) + 1
    sums = x.new_zeros(chunks, conv, dim)
    native("chunk_sums", torch.float32)(
        *(time, dim, offset, chunk, conv),
        *(x.data_ptr(), recent.data_ptr(), sums.data_ptr()),
        1,
    )
    return sums
