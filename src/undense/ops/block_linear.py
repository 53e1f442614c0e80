"""Block-diagonal matrix product: each group of inputs reaches its own group of outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undense import cost
from undense.cost import Cost
from undense.ops.linear_map import BlockMap
from undense.ops.regression import block_solution, ridge


def block_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """y[..., o of block k] = sum_i weight[k, o, i] x[..., i of block k] + bias.

    `x` (..., blocks * inputs), `weight` (blocks, outputs, inputs), `bias` (blocks * outputs,).
    """
    blocks, outputs, inputs = weight.shape
    if blocks == 1:
        return nn.functional.linear(x, weight[0], bias)
    rows = x.reshape(-1, blocks, inputs).transpose(0, 1)  # (blocks, tokens, inputs)
    columns = weight.transpose(1, 2)
    if bias is None:
        mixed = torch.bmm(rows, columns)
    else:
        mixed = torch.baddbmm(bias.view(blocks, 1, outputs), rows, columns)
    return mixed.transpose(0, 1).reshape(*x.shape[:-1], blocks * outputs)


class BlockLinear(BlockMap):
    """Block-diagonal linear map; one block is an ordinary dense matrix."""

    def __init__(self, fan_in: int, fan_out: int, *, blocks: int, bias: bool) -> None:
        super().__init__(fan_in, fan_out, blocks=blocks, bias=bias)
        self.weight = nn.Parameter(torch.empty(blocks, fan_out // blocks, fan_in // blocks))
        self.reset()

    def reset(self, std: float | None = None) -> None:
        nn.init.normal_(self.weight, std=std or self.weight.shape[-1] ** -0.5)
        self.set_bias_(None)

    def forward(self, x: Tensor) -> Tensor:
        return block_linear(x, self.weight, self.bias)

    def cost(self, name: str, tokens: int) -> Cost:
        return cost.block_linear(
            name, tokens, self.blocks, self.fan_in, self.fan_out, bias=self.bias is not None
        )

    def set_blocks_(self, weight: Tensor) -> None:
        self.weight.data.copy_(weight)

    def solve_(self, gram: Tensor, cross: Tensor) -> None:
        self.set_blocks_(block_solution(gram, cross, self.blocks))

    def approximate_(self, weight: Tensor, bias: Tensor | None, gram: Tensor) -> None:
        """Keep the diagonal blocks, corrected for what the dropped inputs would have predicted:
        W_kk + W_k,rest G_rest,k G_kk^-1, the least-squares optimum given the second moment."""
        self.solve_(gram, weight.double() @ gram.double())
        self.set_bias_(bias)

    def refit_(self, inputs: Tensor, targets: Tensor) -> None:
        """Each block solves its own ridge regression onto its slice of the targets."""
        xs = inputs.chunk(self.blocks, -1)
        ys = targets.chunk(self.blocks, -1)
        shifts = []
        for k, (x, y) in enumerate(zip(xs, ys, strict=True)):
            weight, shift = ridge(x, y, intercept=self.bias is not None)
            self.weight.data[k] = weight.T
            shifts.append(shift)
        self.set_bias_(torch.cat(shifts))
