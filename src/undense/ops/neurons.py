"""Which hidden neurons of a dense FFN matter, on the inputs that it really sees."""

from __future__ import annotations

import torch
from torch import Tensor


def energies(activations: Tensor, down: Tensor) -> Tensor:
    """Output energy of each neuron: variance of its activation times its column's squared norm.

    `activations` (rows, hidden), `down` (dim, hidden); returns (hidden,). The variance, not the
    second moment: a constant activation is only a bias, which the refit keeps for nothing.
    """
    return activations.var(0) * down.square().sum(0)


def keep(activations: Tensor, down: Tensor, count: int) -> Tensor:
    """Indices, ascending, of the `count` neurons whose output energy is largest."""
    return torch.topk(energies(activations, down), count).indices.sort().values
