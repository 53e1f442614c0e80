"""Which kernels take the products over pairs of a token and a block."""

from __future__ import annotations

import functools
import importlib.util
from typing import NamedTuple

import torch
from torch import Tensor

from undense.kernels.library import FORCED, SUFFIX, kernels
from undense.kernels.native_pairs import NativePairs
from undense.kernels.pairs import Pairs, ReferencePairs

GPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CHECKED = "Triton, held against fp64 on an H100"
NO_TRITON = "Triton is absent"


class OnGPU(NamedTuple):
    """What tensors of a GPU take: `path` is "triton" or "reference"."""

    path: str
    reason: str


def grouped(chosen: Tensor, matrix: Tensor) -> Pairs:
    """The pairs of `chosen` (tokens, k) with the blocks of `matrix` (blocks, width, dim): compiled
    code on the CPU, Triton on a GPU, plain PyTorch where there is neither, in other dtypes, on
    other devices, and where UNDENSE_KERNELS=reference asks for it."""
    library = kernels().library
    if matrix.device.type == "cpu" and matrix.dtype in SUFFIX and library is not None:
        return NativePairs(chosen, len(matrix), library)
    if matrix.device.type == "cuda" and matrix.dtype in GPU_DTYPES and on_gpu().path == "triton":
        # Here, because whoever has no GPU should not wait for Triton, which is optional besides.
        from undense.kernels.triton_pairs import TritonPairs

        return TritonPairs(chosen, len(matrix))
    return ReferencePairs(chosen, len(matrix))


@functools.cache
def on_gpu() -> OnGPU:
    """Decided once for a process. Triton is not imported for it."""
    if kernels().reason == FORCED:
        return OnGPU("reference", FORCED)
    if importlib.util.find_spec("triton") is None:
        return OnGPU("reference", NO_TRITON)
    return OnGPU("triton", CHECKED)
