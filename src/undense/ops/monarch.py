"""Monarch matrix: two block-diagonal factors with a fixed permutation between them.

W = R P L. Every output depends on every input; each of the blocks x blocks tiles of W has rank
mid / blocks^2. Source: Monarch, https://arxiv.org/abs/2204.00595. Differs: rectangular, and the
projection from a dense matrix is weighted by the second moment of the inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops.block_linear import BlockLinear
from undense.ops.linear_map import Leaf, LinearMap, matrix
from undense.ops.regression import whitened_svd


def shuffle(x: Tensor, groups: int) -> Tensor:
    """The perfect shuffle: feature j of group k goes to place k of group j. Its own inverse when
    `groups` is exchanged for the group size. `x` (..., groups * size)."""
    return x.unflatten(-1, (groups, -1)).transpose(-1, -2).flatten(-2)


class MonarchLinear(LinearMap):
    """x -> L x -> shuffle -> R x + b, with `mid` features between the factors."""

    def __init__(
        self, fan_in: int, fan_out: int, *, blocks: int, bias: bool, leaf: Leaf = BlockLinear
    ) -> None:
        super().__init__(fan_in, fan_out)
        self.blocks = blocks
        self.mid = min(fan_in, fan_out)
        if self.mid % (blocks * blocks):
            raise UndenseError(
                f"Monarch map {fan_in} -> {fan_out}: the smaller width must be divisible by"
                f" blocks squared ({blocks * blocks}); try fewer blocks or another width"
            )
        self.first = leaf(fan_in, self.mid, blocks=blocks, bias=False)
        self.last = leaf(self.mid, fan_out, blocks=blocks, bias=bias)

    def features(self, x: Tensor) -> Tensor:
        """What the last factor reads: (..., fan_in) -> (..., mid)."""
        return shuffle(self.first(x), self.mid // self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.features(x))

    def outputs(self) -> list[nn.Parameter]:
        return self.last.outputs()

    def cost(self, name: str, tokens: int) -> Cost:
        return Cost.total(
            name, self.first.cost("first factor", tokens), self.last.cost("last factor", tokens)
        )

    def approximate_(self, weight: Tensor, bias: Tensor | None, gram: Tensor) -> None:
        """Tile by tile a whitened SVD of rank mid / blocks^2 of W[output block, input block]; then
        the last factor again by least squares, given the first, over all tiles at once."""
        rank = self.mid // self.blocks**2
        outputs = self.fan_out // self.blocks
        inputs = self.fan_in // self.blocks
        between = self.mid // self.blocks
        first = weight.new_zeros(self.blocks, between, inputs)
        last = weight.new_zeros(self.blocks, outputs, between)
        for i in range(self.blocks):
            columns = slice(i * inputs, (i + 1) * inputs)
            for o in range(self.blocks):
                rows = slice(o * outputs, (o + 1) * outputs)
                out, into = whitened_svd(weight[rows, columns], gram[columns, columns], rank)
                # shuffle(groups = mid / blocks): the last factor's block o reads, from every
                # input block i, the features i * mid/blocks + r * blocks + o
                here = torch.arange(into.shape[0]) * self.blocks + o
                first[i, here] = into
                there = torch.arange(out.shape[1]) + i * rank
                last[o][:, there] = out
        self.first.set_blocks_(first)
        self.last.set_blocks_(last)
        reading = shuffle(matrix(self.first).T, between).T.double()  # (mid, fan_in)
        seen = reading @ gram.double()
        self.last.solve_(seen @ reading.T, weight.double() @ seen.T)
        self.last.set_bias_(bias)

    def refit_(self, inputs: Tensor, targets: Tensor) -> None:
        self.last.refit_(self.features(inputs).detach(), targets)
