"""A linear recurrence computed in chunks: products of matrices inside them, a state between them.

A head reads its past through queries and keys, y_t = sum_{s <= t} (Q_t . K_s) v_s. The part inside
a chunk is V triu(K^T Q), time being last; what came before is carried as a state of one row a
feature. Two kinds of features share one head's values: content (q, k, a decay of each token) and
modes (powers of fixed complex numbers). Related: gated linear attention,
https://arxiv.org/abs/2312.06635, and the state space duality of Mamba-2,
https://arxiv.org/abs/2405.21060; modes as features are ours.

All decays are at most 1/2 a token (in the exponent), so that e^cumulated and its inverse stay in
fp32's range inside a chunk and their products exact where they are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from undense import cost
from undense.cost import Cost
from undense.ops.full_precision import in_full


@dataclass(frozen=True)
class Features:
    """One kind: `queries` and `keys` (…, features, chunk), and the `state` before the chunk
    (…, features, width)."""

    queries: Tensor
    keys: Tensor
    state: Tensor


def write(keys: Tensor, values: Tensor) -> Tensor:
    """K V^T: `keys` (…, features, chunk), `values` (…, width, chunk) -> (…, features, width)."""
    written = torch.bmm(keys.flatten(0, -3), values.flatten(0, -3).mT)
    return written.view(*keys.shape[:-1], values.shape[-2])


def read(values: Tensor, kinds: list[Features]) -> Tensor:
    """V triu(sum_i K_i^T Q_i) + sum_i S_i^T Q_i over the kinds; `values` (…, width, chunk)."""
    flat = (part.flatten(0, -3) for k in kinds for part in (k.queries, k.keys, k.state))
    return _Read.apply(values.flatten(0, -3), *flat).view(values.shape)


class _Read(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, *kinds: Tensor) -> Tensor:
        scores = torch.bmm(kinds[1].mT, kinds[0])
        y = torch.bmm(kinds[2].mT, kinds[0])
        for queries, keys, state in _triples(kinds[3:]):
            scores.baddbmm_(keys.mT, queries)
            y.baddbmm_(state.mT, queries)
        scores.triu_()
        ctx.save_for_backward(values, scores, *kinds)
        return y.baddbmm_(values, scores)

    @staticmethod
    @once_differentiable
    @in_full
    def backward(  # type: ignore[override]  (as the decorator leaves it)
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, ...]:
        values, scores, *kinds = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()
        for_scores = torch.bmm(values.mT, grad).triu_()
        grads = [torch.bmm(grad, scores.mT)]
        for queries, keys, state in _triples(kinds):
            grads += [
                torch.bmm(keys, for_scores).baddbmm_(state, grad),
                torch.bmm(queries, for_scores.mT),
                torch.bmm(queries, grad.mT),
            ]
        return tuple(grads)


def _triples(kinds: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    return [(kinds[i], kinds[i + 1], kinds[i + 2]) for i in range(0, len(kinds), 3)]


def write_cost(name: str, rows: int, chunk: int, width: int, features: int) -> Cost:
    """`rows` chunks of one head each."""
    return cost.linear(name, rows * features, chunk, width, bias=False)


def read_cost(name: str, rows: int, chunk: int, width: int, features: list[int]) -> Cost:
    """`rows` chunks of one head each; back, two products for each product."""
    within, across = chunk * chunk * width, chunk * sum(features) * (chunk + width)
    sums = (len(features) - 1) * chunk * (chunk + width) + chunk * width
    return Cost(
        name=name,
        forward=rows * (2 * (within + across) + sums),
        backward=rows * (4 * (within + across) + sum(features) * chunk),
        useful=rows * (2 * (within + across) + sums),
        macs=rows * (within + across),
        activations=rows * chunk * (2 * width + sum(features) * 2 + chunk),
    )
