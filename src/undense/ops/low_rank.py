"""Low-rank linear map: two thin dense factors."""

from __future__ import annotations

import torch
from torch import Tensor

from undense.cost import Cost
from undense.ops.block_linear import BlockLinear
from undense.ops.linear_map import LinearMap
from undense.ops.regression import whitened_svd


class LowRankLinear(LinearMap):
    """x -> A (B x) + b with B (rank, fan_in), A (fan_out, rank)."""

    def __init__(self, fan_in: int, fan_out: int, *, rank: int, bias: bool) -> None:
        super().__init__(fan_in, fan_out)
        self.first = BlockLinear(fan_in, rank, blocks=1, bias=False)
        self.last = BlockLinear(rank, fan_out, blocks=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))

    def cost(self, name: str, tokens: int) -> Cost:
        return Cost.total(
            name, self.first.cost("first factor", tokens), self.last.cost("last factor", tokens)
        )

    def approximate_(self, weight: Tensor, bias: Tensor | None, gram: Tensor) -> None:
        """Whitened SVD: the best factors of this rank on inputs with this second moment."""
        out, into = whitened_svd(weight, gram, self.first.fan_out)
        kept = into.shape[0]
        self.first.weight.data[0, :kept] = into
        self.last.weight.data[0, :, :kept] = out
        if self.last.bias is not None:
            self.last.bias.data.copy_(torch.zeros_like(self.last.bias) if bias is None else bias)

    def refit_(self, inputs: Tensor, targets: Tensor) -> None:
        """The rank stays: only the factor nearest to the output is solved again."""
        with torch.no_grad():
            self.last.refit_(self.first(inputs), targets)
