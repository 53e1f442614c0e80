"""The key-value state of the fusion across chunks: written by every token, read by every token.

S_t = e^(-decay_t) S_{t-1} + write_t k_t v_t^T,  y_t = S_t^T q_t: queries, keys and values without a
softmax, keys and queries of unit length, one decay and one write strength for each token and head.
This is where recall comes from: filters mix by distance, this mixes by content.
Related: gated linear attention, https://arxiv.org/abs/2312.06635; here one decay a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undense import cost
from undense.cost import Cost
from undense.ops.modal_bank import FASTEST


class ContentMemory(nn.Module):
    """Turns projections into unit queries and keys, decays and write strengths.

    Heads start with memories of 32, 512, 8K … tokens, in turn.
    """

    def __init__(self, heads: int, *, features: int) -> None:
        super().__init__()
        self.heads = heads
        self.features = features
        span = 2.0 ** (5 + 4 * (torch.arange(heads) % 4))
        self.decay_bias = nn.Parameter(torch.logit(1 / (span * FASTEST)))
        self.write_bias = nn.Parameter(torch.full((heads,), 1.0))

    def forward(
        self, q: Tensor, k: Tensor, decay: Tensor, write: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`q`, `k` (batch, time, heads * features), `decay`, `write` (batch, time, heads) ->
        queries, keys (batch, time, heads, features) and decays <= 0 (batch, time, heads)."""
        shape = (self.heads, self.features)
        q = nn.functional.normalize(q.unflatten(-1, shape), dim=-1, eps=1e-6)
        k = nn.functional.normalize(k.unflatten(-1, shape), dim=-1, eps=1e-6)
        strength = torch.sigmoid(write + self.write_bias)
        return q, k * strength[..., None], -FASTEST * torch.sigmoid(decay + self.decay_bias)

    def cost(self, name: str, tokens: int) -> Cost:
        rows = tokens * self.heads
        numbers = rows * self.features
        return Cost.total(
            name,
            cost.elementwise("unit length", 2 * numbers, forward=3),
            cost.elementwise("no division by zero", 2 * rows),
            cost.elementwise("write strength", rows, forward=1 + 4),
            cost.elementwise("decay", rows, forward=1 + 4 + 1),
            cost.elementwise("strong keys", numbers),
        )
