"""Sparse matrix with the same number of stored entries in every row; zeros are not computed.

Rows are sums of the input features that their columns name, times the values: one gather-and-sum
(`embedding_bag` over the transposed tokens), in every dtype and on every device, with its own
backward. Measured against CSR products and dense ones: see `benchmarks/sparse_factors.py`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from undense import cost
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops.gathered_sum import gathered_sum
from undense.ops.linear_map import BlockMap
from undense.ops.regression import RIDGE, block_solution, steadied


def sparse_linear(x: Tensor, values: Tensor, columns: Tensor, bias: Tensor | None) -> Tensor:
    """y[..., o] = sum_k values[o, k] x[..., columns[o, k]] + bias[o].

    `x` (..., fan_in), `values` and `columns` (fan_out, kept), `bias` (fan_out,).
    """
    features = x.reshape(-1, x.shape[-1]).t().contiguous()  # a row a feature, summed as a whole
    weights = values.to(x.dtype)  # under autocast the features come in the lower precision
    mixed = gathered_sum(features, columns, weights)
    y = mixed.t().reshape(*x.shape[:-1], values.shape[0])
    return y if bias is None else y + bias


class SparseLinear(BlockMap):
    """Linear map with `keep` of the entries of every row, those of its own block only.

    Stored are the values and their columns, so that no other entry has a weight, a gradient or a
    state in the optimizer. At random start a row's columns are evenly spaced over its block, from
    another first one for each row; a start from dense weights keeps the largest of each row.
    Shapes: `values`, `columns` (fan_out, kept). Source: RigL, https://arxiv.org/abs/1911.11134
    (dynamic sparse training); differs: the columns stay where the start put them.
    """

    columns: Tensor

    def __init__(self, fan_in: int, fan_out: int, *, blocks: int, bias: bool, keep: float) -> None:
        super().__init__(fan_in, fan_out, blocks=blocks, bias=bias)
        if not 0 < keep <= 1:
            raise UndenseError(f"sparse map: keep={keep} must be above 0 and at most 1")
        self.inputs = fan_in // blocks
        self.kept = max(1, round(keep * self.inputs))
        self.values = nn.Parameter(torch.empty(fan_out, self.kept))
        spread = torch.arange(self.kept) * self.inputs // self.kept
        turned = (spread + torch.arange(fan_out)[:, None]) % self.inputs
        self.register_buffer("columns", (turned + self._first()).sort(-1).values.int())
        self.reset()

    def _first(self) -> Tensor:
        """The first column of each row's block: (fan_out, 1)."""
        block = torch.arange(self.fan_out) // (self.fan_out // self.blocks)
        return (block * self.inputs)[:, None]

    def reset(self, std: float | None = None) -> None:
        full = std or self.inputs**-0.5
        nn.init.normal_(self.values, std=full * (self.inputs / self.kept) ** 0.5)
        self.set_bias_(None)

    def forward(self, x: Tensor) -> Tensor:
        return sparse_linear(x, self.values, self.columns, self.bias)

    def cost(self, name: str, tokens: int) -> Cost:
        stored = self.fan_out * self.kept
        multiplies = tokens * stored
        product = Cost(
            name="gathered product",
            forward=2 * multiplies,
            backward=4 * multiplies,
            useful=2 * multiplies,
            macs=multiplies,
            weights=stored,
            indices=self.columns.element_size() * stored,
            activations=tokens * (self.fan_in + self.fan_out),
        )
        if self.bias is None:
            return product.named(name)
        shift = cost.elementwise("bias", tokens * self.fan_out, backward=1, macs=0)
        return Cost.total(name, product, replace(shift, weights=self.fan_out))

    def set_blocks_(self, weight: Tensor) -> None:
        """Keep the entries of each row that are largest in magnitude."""
        self._keep(weight, weight.abs())

    def _keep(self, weight: Tensor, strength: Tensor) -> None:
        """Keep the strongest entries of each row; both (blocks, outputs, inputs)."""
        places = strength.flatten(0, 1).topk(self.kept).indices.sort(-1).values
        self.columns.copy_(places + self._first())
        self.values.data.copy_(weight.flatten(0, 1).gather(-1, places))

    def solve_(self, gram: Tensor, cross: Tensor) -> None:
        """Row by row on its own columns: G[S, S] v = c[S]."""
        gram, cross = (gram.double(), cross.double())
        columns = self.columns.long()
        several = max(1, 2**22 // self.kept**2)  # at most 32 MB of small systems at once
        solved = []
        for places, wanted in zip(columns.split(several), cross.split(several), strict=True):
            own = steadied(gram[places[:, :, None], places[:, None, :]])
            right = wanted.gather(-1, places)[..., None]
            solved.append(torch.cholesky_solve(right, torch.linalg.cholesky(own))[..., 0])
        self.values.data.copy_(torch.cat(solved))

    def approximate_(self, weight: Tensor, bias: Tensor | None, gram: Tensor) -> None:
        """Of the least-squares blocks, each row's entries that move the output most (magnitude
        times the RMS of the input), their values solved again without the others."""
        cross = weight.double() @ gram.double()
        blocks = block_solution(gram, cross, self.blocks)
        scale = gram.diagonal().double().clamp_min(0).sqrt().view(self.blocks, 1, self.inputs)
        self._keep(blocks, blocks.abs() * scale)
        self.solve_(gram, cross)
        self.set_bias_(bias)

    def refit_(self, inputs: Tensor, targets: Tensor) -> None:
        """Ridge regression of each row on its own columns; an intercept where it has a bias."""
        x, y = (inputs.double(), targets.double())
        x_mean, y_mean = (x.mean(0), y.mean(0))
        if self.bias is not None:
            x, y = (x - x_mean, y - y_mean)
        gram = x.T @ x
        gram.diagonal().add_(RIDGE * gram.diagonal().mean())
        self.solve_(gram, y.T @ x)
        told = sparse_linear(x_mean[None], self.values.double(), self.columns, None)[0]
        self.set_bias_(y_mean - told)
