"""Block-diagonal matrix product: each group of inputs reaches its own group of outputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from undense import cost
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops.linear_map import LinearMap
from undense.ops.regression import ridge


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


class BlockLinear(LinearMap):
    """Block-diagonal linear map; one block is an ordinary dense matrix."""

    def __init__(self, fan_in: int, fan_out: int, *, blocks: int, bias: bool) -> None:
        super().__init__(fan_in, fan_out)
        if blocks < 1 or fan_in % blocks or fan_out % blocks:
            raise UndenseError(
                f"block-diagonal map {fan_in} -> {fan_out}: blocks={blocks} must divide both;"
                f" try one of {divisors(math.gcd(fan_in, fan_out))}"
            )
        self.blocks = blocks
        self.weight = nn.Parameter(torch.empty(blocks, fan_out // blocks, fan_in // blocks))
        self.bias = nn.Parameter(torch.zeros(fan_out)) if bias else None
        self.reset()

    def reset(self, std: float | None = None) -> None:
        """Normal weights, by default of std sqrt(1 / inputs per block), which keeps the RMS."""
        nn.init.normal_(self.weight, std=std or self.weight.shape[-1] ** -0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return block_linear(x, self.weight, self.bias)

    def cost(self, name: str, tokens: int) -> Cost:
        return cost.block_linear(
            name, tokens, self.blocks, self.fan_in, self.fan_out, bias=self.bias is not None
        )

    def approximate_(self, weight: Tensor, bias: Tensor | None, gram: Tensor) -> None:
        """Keep the diagonal blocks, corrected for what the dropped inputs would have predicted:
        W_kk + W_k,rest G_rest,k G_kk^-1, the least-squares optimum given the second moment."""
        outputs = self.fan_out // self.blocks
        inputs = self.fan_in // self.blocks
        cross = weight.double() @ gram.double()
        for k in range(self.blocks):
            rows = slice(k * outputs, (k + 1) * outputs)
            columns = slice(k * inputs, (k + 1) * inputs)
            block = gram[columns, columns].double()
            block = block + 1e-6 * block.diagonal().mean() * torch.eye(inputs, dtype=block.dtype)
            self.weight.data[k] = torch.linalg.solve(block, cross[rows, columns].T).T
        if self.bias is not None:
            self.bias.data.copy_(torch.zeros_like(self.bias) if bias is None else bias)

    def refit_(self, inputs: Tensor, targets: Tensor) -> None:
        """Each block solves its own ridge regression onto its slice of the targets."""
        xs = inputs.chunk(self.blocks, -1)
        ys = targets.chunk(self.blocks, -1)
        shifts = []
        for k, (x, y) in enumerate(zip(xs, ys, strict=True)):
            weight, shift = ridge(x, y)
            self.weight.data[k] = weight.T
            shifts.append(shift)
        if self.bias is not None:
            self.bias.data.copy_(torch.cat(shifts))


def divisors(number: int) -> list[int]:
    """The divisors of `number`, ascending, at most the first dozen."""
    return [k for k in range(1, number + 1) if number % k == 0][:12]
