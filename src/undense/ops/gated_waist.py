"""A few features fed back to one another through a thin waist, gated: one micro-step."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from undense import cost
from undense.cost import Cost
from undense.ops.block_linear import BlockLinear
from undense.ops.regression import reduced_rank


@final
class GatedWaist(nn.Module):
    """z = A h (`waist`), then sigmoid(C z + c) * (B silu(z) + b) (`respond`).

    Shapes: A (rank, features), B and C (features, rank), each with one block a group; features of
    one group do not see those of another.
    """

    def __init__(self, features: int, rank: int, *, groups: int = 1) -> None:
        super().__init__()
        self.waist = BlockLinear(features, rank * groups, blocks=groups, bias=False)
        self.out = BlockLinear(rank * groups, features, blocks=groups, bias=True)
        self.gate = BlockLinear(rank * groups, features, blocks=groups, bias=True)

    def respond(self, z: Tensor) -> Tensor:
        """What a waist (..., rank * groups) says to the features: (..., features)."""
        return torch.sigmoid(self.gate(z)) * self.out(nn.functional.silu(z))

    def respond_cost(self, name: str, tokens: int) -> Cost:
        """What `respond` costs, the waist being read twice."""
        return Cost.total(
            name,
            cost.fan_out("waist read twice", tokens * self.waist.fan_out, 2),
            self.gate.cost("gate", tokens),
            cost.activation("sigmoid", tokens * self.out.fan_out, "sigmoid"),
            cost.activation("silu", tokens * self.waist.fan_out, "silu"),
            self.out.cost("out", tokens),
            cost.product("gating", tokens * self.out.fan_out),
        )

    def rest_(self) -> None:
        """Say nothing, with the gate half open."""
        for part in (self.gate, self.out):
            part.weight.data.zero_()
            part.set_bias_(None)

    def start_(self, inputs: Tensor, targets: Tensor) -> None:
        """From rest to a sample: waists read the best linear map of their rank, group by group,
        and B is solved behind the nonlinearity. `inputs`, `targets` (rows, features)."""
        groups, rank = self.waist.blocks, self.waist.fan_out // self.waist.blocks
        pairs = zip(inputs.chunk(groups, -1), targets.chunk(groups, -1), strict=True)
        for k, (own, wanted) in enumerate(pairs):
            kept = min(rank, own.shape[1])
            _, into, _ = reduced_rank(own, wanted, kept)
            level = (own @ into).std(0).clamp_min(1e-6)  # silu bends inputs of about this size
            self.waist.weight.data[k, :kept] = (into / level).T
        # the gate halves what B says
        self.out.refit_(nn.functional.silu(self.waist(inputs)), 2 * targets)
