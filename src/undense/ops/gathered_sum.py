"""Rows gathered and summed, weighted or not: the product with a matrix of few entries in a row."""

from __future__ import annotations

from torch import Tensor, nn


def gathered_sum(rows: Tensor, places: Tensor, weights: Tensor | None = None) -> Tensor:
    """y[o] = sum_k weights[o, k] rows[places[o, k]]; without weights each is 1.

    Shapes: `rows` (features, tokens), `places` and `weights` (outputs, kept), y (outputs, tokens).
    """
    if rows.shape[1] == 0:  # refused by torch's kernel on some processors, taken on others
        first = rows[:1].expand(len(places), 0)
        return first if weights is None else weights[:, :1] * first
    return nn.functional.embedding_bag(places, rows, per_sample_weights=weights, mode="sum")
