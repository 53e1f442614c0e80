"""Random dense FFNs to start from, and inputs that look like those of a real one."""

from __future__ import annotations

import torch

from undense.contract import DenseFFN


def dense_ffn(dim: int, hidden: int, *, gated: bool = False) -> DenseFFN:
    """A random dense FFN whose neurons differ in how much they matter."""
    scale = torch.logspace(0, -1.5, hidden)[:, None]
    return DenseFFN(
        up=torch.randn(hidden, dim) * dim**-0.5,
        up_bias=0.1 * torch.randn(hidden),
        gate=torch.randn(hidden, dim) * dim**-0.5 if gated else None,
        gate_bias=torch.zeros(hidden) if gated else None,
        down=(torch.randn(hidden, dim) * scale).T.contiguous(),
        down_bias=torch.randn(dim),
        activation="silu" if gated else "gelu_tanh",
    )


def inputs(dim: int, rows: int = 1024) -> torch.Tensor:
    """Correlated rows, as the inputs of a real FFN are."""
    return torch.randn(rows, dim) @ (torch.randn(dim, dim) * torch.logspace(0, -1, dim))
