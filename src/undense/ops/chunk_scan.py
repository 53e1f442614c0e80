"""A linear recurrence computed in chunks: products of matrices inside them, a state between them.

A head reads its past through queries and keys, y_t = sum_{s <= t} (Q_t . K_s) v_s. The part inside
a chunk is tril(Q K^T) V; what came before is carried as a state of one row a feature. Two kinds of
features share one head's values: content (q, k, a decay of each token) and modes (powers of fixed
complex numbers). Related: gated linear attention, https://arxiv.org/abs/2312.06635, and the state
space duality of Mamba-2, https://arxiv.org/abs/2405.21060; modes as features are ours.

All decays are at most 1/2 a token (in the exponent), so that e^cumulated and its inverse stay in
fp32's range inside a chunk and their products exact where they are used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from undense.cost import Cost


@dataclass(frozen=True)
class Features:
    """One kind: `queries` (…, chunk, features), transposed `keys` (…, features, chunk), and the
    `state` before the chunk (…, features, width)."""

    queries: Tensor
    keys: Tensor
    state: Tensor


def read(values: Tensor, kinds: list[Features]) -> Tensor:
    """tril(sum_i Q_i K_i^T) V + sum_i Q_i S_i over the kinds; `values` (…, chunk, width)."""
    first, *others = (
        (kind.queries.flatten(0, -3), kind.keys.flatten(0, -3), kind.state.flatten(0, -3))
        for kind in kinds
    )
    scores = torch.bmm(first[0], first[1])
    y = torch.bmm(first[0], first[2])
    for queries, keys, state in others:
        scores.baddbmm_(queries, keys)
        y.baddbmm_(queries, state)
    return y.baddbmm_(scores.tril_(), values.flatten(0, -3)).view(values.shape)


def read_cost(name: str, rows: int, chunk: int, width: int, features: list[int]) -> Cost:
    """`rows` chunks of one head each; backward two products for each product, and the sums over
    the uses of queries (by scores and state)."""
    macs = chunk * chunk * width + sum(chunk * f * (chunk + width) for f in features)
    sums = (len(features) - 1) * chunk * (chunk + width) + chunk * width
    return Cost(
        name=name,
        forward=rows * (2 * macs + sums),
        useful=rows * (2 * macs + sums),
        macs=rows * macs,
        activations=rows * chunk * (2 * width + sum(features) * 2 + chunk),
    )
