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

import torch
from torch import Tensor

from undense import cost
from undense.cost import Cost


def content_features(q: Tensor, k: Tensor, decay: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fold the decay of every token, -1/2 <= decay <= 0, into queries and keys.

    `q`, `k` (…, chunk, features), `decay` (…, chunk) -> queries and keys of the same shape, and the
    decay of the whole chunk (…, 1, 1).
    """
    total = decay.double().cumsum(-1)
    grow = total.exp()
    return (
        q * grow.to(q.dtype)[..., None],
        k * (-total).exp().to(k.dtype)[..., None],
        grow[..., -1:, None].to(q.dtype),
    )


def content_features_cost(name: str, tokens: int, heads: int, features: int) -> Cost:
    each = tokens * heads
    return cost.elementwise(name, each, forward=4 + 2 * features, macs=2 * features)


def carry_content(start: Tensor, written: Tensor, decay: Tensor) -> Tensor:
    """States before each chunk and after the last: S <- decay (S + written).

    `start` (batch, heads, features, width), `written` (batch, chunks, …), `decay` (batch, chunks,
    heads, 1, 1) -> (batch, chunks + 1, heads, features, width).
    """
    states = [start]
    for i in range(written.shape[1]):
        states.append((states[-1] + written[:, i]) * decay[:, i])
    return torch.stack(states, 1)


def carry_modes(start: Tensor, written: Tensor, turn: Tensor) -> Tensor:
    """States before each chunk and after the last, all fp64: Z <- turn Z + written, complex.

    `start` (batch, heads, modes, 2, width), `written` (batch, chunks, …), `turn` (heads, modes, 2,
    1) -> (batch, chunks + 1, heads, modes, 2, width).
    """
    real, imaginary = turn.unbind(-2)
    straight = real[..., None]
    crossed = torch.stack([-imaginary, imaginary], -2)
    states = [start]
    for i in range(written.shape[1]):
        state = states[-1]
        moved = torch.addcmul(written[:, i], state, straight)
        states.append(torch.addcmul(moved, state.flip(-2), crossed))
    return torch.stack(states, 1)


def carry_modes_cost(name: str, batch: int, chunks: int, heads: int, modes: int, width: int) -> Cost:
    numbers = batch * chunks * heads * modes * 2 * width
    return Cost.total(
        name,
        cost.elementwise("turn", heads * modes),
        cost.elementwise("carry", numbers, forward=4, macs=2),
    )


def read(
    values: Tensor,
    features: list[tuple[Tensor, Tensor, Tensor]],
) -> Tensor:
    """tril(sum_i Q_i K_i^T) V + sum_i Q_i S_i over the kinds of features.

    `values` (…, chunk, width); each kind: queries (…, chunk, features), transposed keys (…,
    features, chunk), state before the chunk (…, features, width).
    """
    flat = values.flatten(0, -3)
    scores: Tensor | None = None
    carried: Tensor | None = None
    for queries, keys, state in features:
        queries, keys = queries.flatten(0, -3), keys.flatten(0, -3)
        state = state.flatten(0, -3)
        if scores is None or carried is None:
            scores, carried = queries @ keys, queries @ state
        else:
            scores = torch.baddbmm(scores, queries, keys)
            carried = torch.baddbmm(carried, queries, state)
    assert scores is not None and carried is not None
    return torch.baddbmm(carried, scores.tril(), flat).view(values.shape)


def read_cost(name: str, rows: int, chunk: int, width: int, features: list[int]) -> Cost:
    """`rows` chunks of one head each."""
    macs = chunk * chunk * width + sum(chunk * f * (chunk + width) for f in features)
    sums = (len(features) - 1) * chunk * (chunk + width) + chunk * width
    return Cost(
        name=name,
        forward=rows * (2 * macs + sums),
        useful=rows * (2 * macs + sums),
        macs=rows * macs,
        activations=rows * chunk * (2 * width + sum(features) * 2 + chunk),
    )
