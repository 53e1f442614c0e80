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
from undense.ops.chunk_scan import Features
from undense.ops.modal_bank import FASTEST
from undense.ops.padding import Grid

EPSILON = 1e-6


class ContentMemory(nn.Module):
    """Reads and writes of the memory; streams are `q`, `k` (batch, time, heads * features),
    `decay`, `write` (batch, time, heads). Heads start with memories of 32, 512, 8K, 128K tokens."""

    def __init__(self, heads: int, *, features: int) -> None:
        super().__init__()
        self.heads = heads
        self.features = features
        span = 2.0 ** (5 + 4 * (torch.arange(heads) % 4))
        self.decay_bias = nn.Parameter(torch.logit(1 / (span * FASTEST)))
        self.write_bias = nn.Parameter(torch.full((heads,), 1.0))

    def chunks(
        self,
        streams: tuple[Tensor, Tensor, Tensor, Tensor],
        grid: Grid,
        values: Tensor,
        before: Tensor,
    ) -> tuple[Features, Tensor]:
        """Features of all chunks, and the memory after them: (batch, heads, features, width)."""
        q, k, decay, write = streams
        query_scale, key_scale, decay = self._scales(q, k, decay, write)
        real = grid.packing.real(q.device)
        if real is not None:
            key_scale = key_scale.masked_fill(~real[..., None], 0)
            decay = decay.masked_fill(~real[..., None], 0)
        total = grid.cut(decay).transpose(2, 3).double().cumsum(-1)  # (…, heads, chunk)
        grow = total.exp()
        query_scale = grid.cut(query_scale).transpose(2, 3) * grow.to(q.dtype)
        key_scale = grid.cut(key_scale).transpose(2, 3) * (-total).exp().to(q.dtype)
        queries = grid.heads(q, self.heads) * query_scale[..., None]
        keys = (grid.heads(k, self.heads) * key_scale[..., None]).transpose(-1, -2)
        shape = keys.shape[:-1] + values.shape[-1:]
        written = torch.bmm(keys.flatten(0, 2), values.flatten(0, 2)).view(shape)
        whole = grow[..., -1:, None].to(q.dtype)
        states, after = _carry(before.to(q.dtype), written, whole)
        return Features(queries, keys, states), after

    def step(
        self, streams: tuple[Tensor, Tensor, Tensor, Tensor], value: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One token, streams of time 1: what it reads (batch, heads, width), and the memory."""
        q, k, decay, write = streams
        query_scale, key_scale, decay = self._scales(q, k, decay, write)
        query = q[:, 0].unflatten(-1, (self.heads, -1)) * query_scale[:, 0, :, None]
        key = k[:, 0].unflatten(-1, (self.heads, -1)) * key_scale[:, 0, :, None]
        kept = before.to(q.dtype) * decay[:, 0, :, None, None].exp()
        after = torch.addcmul(kept, key[..., None], value[:, :, None])
        return (query[:, :, None] @ after)[:, :, 0], after

    def _scales(
        self, q: Tensor, k: Tensor, decay: Tensor, write: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What makes a query of unit length and a key as long as its write strength, and the decay
        (-1/2 to 0): (batch, time, heads) each."""
        lengths = [
            torch.linalg.vector_norm(x.unflatten(-1, (self.heads, -1)), dim=-1) + EPSILON
            for x in (q, k)
        ]
        strength = torch.sigmoid(write + self.write_bias)
        decay = torch.sigmoid(decay + self.decay_bias) * -FASTEST
        return lengths[0].reciprocal(), strength / lengths[1], decay

    def chunks_cost(
        self, name: str, batch: int, time: int, chunks: int, chunk: int, w: int
    ) -> Cost:
        rows, slots = batch * time * self.heads, batch * chunks * chunk * self.heads
        numbers = batch * chunks * self.heads * self.features * w
        return Cost.total(
            name,
            self._scales_cost(rows),
            cost.elementwise("growth", slots, forward=1 + 1 + 1 + 1 + 2, macs=4),
            cost.elementwise("scaled queries and keys", 2 * slots * self.features),
            cost.elementwise("write", slots * self.features * w, forward=2, macs=1),
            cost.elementwise("carry", numbers, forward=2, macs=1),
        )

    def step_cost(self, name: str, batch: int, width: int) -> Cost:
        rows = batch * self.heads
        return Cost.total(
            name,
            self._scales_cost(rows),
            cost.elementwise("scaled query and key", 2 * rows * self.features),
            cost.elementwise("decay", rows),
            cost.elementwise("write", rows * self.features * width, forward=1 + 2, macs=2),
            cost.elementwise("read", rows * self.features * width, forward=2, macs=1),
        )

    def _scales_cost(self, rows: int) -> Cost:
        """Lengths; a sum and a division each; two sums and sigmoids, and the decay's factor."""
        return Cost.total(
            "scales",
            cost.elementwise("lengths", 2 * rows * self.features, forward=2, macs=1),
            cost.elementwise(
                "strengths and decays", rows, forward=2 + 2 + (1 + 4) + (1 + 4 + 1), macs=5
            ),
        )


def _carry(start: Tensor, written: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
    """States before each chunk, and the one after the last: S <- decay (S + written).

    `start` (batch, heads, features, width), `written` (batch, chunks, …), `decay` (batch, chunks,
    heads, 1, 1).
    """
    chunks = written.shape[1]
    if torch.is_grad_enabled():
        states = [start]
        for i in range(chunks):
            states.append((states[-1] + written[:, i]) * decay[:, i])
        return torch.stack(states[:-1], 1), states[-1]
    before = torch.empty_like(written)  # nothing to go back through: no copy of all states
    state = start
    for i in range(chunks):
        before[:, i] = state
        state = (state + written[:, i]) * decay[:, i]
    return before, state
