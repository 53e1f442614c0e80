"""Orthonormal bases over the features of one token: real Fourier and cosine, in rows.

Stored as real matrices and applied as small products: exact in every dtype that has a matmul
(the CPU's FFT refuses bf16 and fp16), any width, and cheaper than an FFT while few rows are kept.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def fourier_basis(dim: int) -> tuple[Tensor, Tensor]:
    """Real Fourier basis of R^dim, lowest frequency first, and each row's frequency.

    Rows: 1/sqrt(dim); then for f = 1 … the pair sqrt(2/dim) cos(2 pi f n / dim), … sin(…); for an
    even dim, last, the alternating row of the Nyquist frequency. Returns (dim, dim) fp32 with
    orthonormal rows, and (dim,) int64.
    """
    place = torch.arange(dim, dtype=torch.float64)
    rows = [torch.full((dim,), dim**-0.5, dtype=torch.float64)]
    frequencies = [0]
    for frequency in range(1, (dim - 1) // 2 + 1):
        phase = 2 * math.pi * frequency * place / dim
        rows += [math.sqrt(2 / dim) * phase.cos(), math.sqrt(2 / dim) * phase.sin()]
        frequencies += [frequency, frequency]
    if dim % 2 == 0:
        rows.append(dim**-0.5 * (1 - 2 * (place % 2)))
        frequencies.append(dim // 2)
    return torch.stack(rows[:dim]).float(), torch.tensor(frequencies[:dim])


def cosine_basis(dim: int) -> tuple[Tensor, Tensor]:
    """Orthonormal DCT-II basis of R^dim, lowest frequency first; one row a frequency."""
    place = torch.arange(dim, dtype=torch.float64)
    rows = torch.cos(math.pi * (place + 0.5) * place[:, None] / dim) * math.sqrt(2 / dim)
    rows[0] *= math.sqrt(0.5)
    return rows.float(), torch.arange(dim)
