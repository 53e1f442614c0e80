"""The key-value state of the fusion across chunks: written by every token, read by every token.

S_t = e^(-decay_t) S_{t-1} + write_t k_t v_t^T,  y_t = S_t^T q_t: queries, keys and values without a
softmax, keys and queries of unit length, one decay and one write strength for each token and head.
This is where recall comes from: filters mix by distance, this mixes by content.
Related: gated linear attention, https://arxiv.org/abs/2312.06635; here one decay a head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from undense import cost
from undense.cost import Cost
from undense.ops.chunk_scan import Features, write, write_cost
from undense.ops.modal_bank import FASTEST
from undense.ops.slots import Slots

EPSILON = 1e-12  # under the squared lengths of queries and keys


class Streams(NamedTuple):
    """What a memory is driven by, time last: `q`, `k` (batch, heads * features, time), `decay` and
    `write` (batch, heads, time)."""

    q: Tensor
    k: Tensor
    decay: Tensor
    write: Tensor


class ContentMemory(nn.Module):
    """Reads and writes of the memory. Heads start with memories of 8, 64, 512, 4096 tokens, writing
    faintly: at full strength what thousands of tokens wrote would drown, from the start, what the
    filters say of the last few."""

    def __init__(self, heads: int, *, features: int) -> None:
        super().__init__()
        self.heads = heads
        self.features = features
        span = 2.0 ** (3 + 3 * (torch.arange(heads) % 4))
        self.decay_bias = nn.Parameter(torch.logit(1 / (span * FASTEST)))
        self.write_bias = nn.Parameter(torch.full((heads,), -3.0))

    def chunks(
        self, streams: Streams, slots: Slots, values: Tensor, before: Tensor
    ) -> tuple[Features, Tensor]:
        """Features of all chunks, and the memory after them: (batch, heads, features, width).

        `values` (batch, heads, chunks, width, chunk), 0 where no token is.
        """
        query_scale, key_scale, decay = self._scales(streams)
        real = slots.real(len(decay), decay.device)
        if real is not None:
            decay = decay.masked_fill(~real, 0)
        total = decay.unflatten(-1, (slots.chunks, slots.chunk)).double().cumsum(-1)
        grow = total.exp().to(decay.dtype).flatten(-2)
        queries = slots.packed(streams.q, self.heads)
        queries = queries * slots.packed(query_scale * grow, self.heads)
        keys = slots.packed(streams.k, self.heads)
        keys = keys * slots.packed(key_scale / grow, self.heads)
        states, after = _carry(before, write(keys, values), total[..., -1].cumsum(-1))
        return Features(queries, keys, states), after

    def step(self, streams: Streams, value: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """One token, streams of time 1: what it reads (batch, heads, width), and the memory."""
        query_scale, key_scale, decay = self._scales(streams)
        query = streams.q.unflatten(1, (self.heads, -1)) * query_scale[:, :, None]
        key = streams.k.unflatten(1, (self.heads, -1)) * key_scale[:, :, None]
        kept = before.to(query.dtype) * decay[..., None].exp()
        after = torch.addcmul(kept, key, value[:, :, None])
        return (query.mT @ after)[:, :, 0], after

    def _scales(self, streams: Streams) -> tuple[Tensor, Tensor, Tensor]:
        """What makes a query of unit length and a key as long as its write strength, and the decay
        (-1/2 to 0): (batch, heads, time) each."""
        query, key = (
            (x.square().unflatten(1, (self.heads, -1)).sum(2) + EPSILON).rsqrt()
            for x in (streams.q, streams.k)
        )
        strength = torch.sigmoid(streams.write + self.write_bias[:, None])
        decay = torch.sigmoid(streams.decay + self.decay_bias[:, None]) * -FASTEST
        return query, strength * key, decay

    def chunks_cost(self, name: str, batch: int, chunks: int, chunk: int, w: int) -> Cost:
        rows = batch * self.heads * chunks
        slots, pairs = rows * chunk, batch * self.heads * (chunks + 1) ** 2
        kept = batch * self.heads * (chunks + 1)
        numbers = slots * self.features
        states = kept * (chunks + 1) * self.features * w
        used = kept * chunks * self.features * w  # the state after the last chunk goes no way back
        return Cost.total(
            name,
            self._scales_cost(slots),
            # sum, exp; the products with both scales; back, the sums over what is used twice
            cost.elementwise("growth", slots, forward=4, backward=11, macs=4),
            cost.elementwise("scaled queries and keys", 2 * numbers, backward=3),
            cost.fan_out("lengths and queries, keys", 2 * numbers, 2),
            cost.fan_out("keys written and read", numbers, 2),
            write_cost("write", rows, chunk, w, self.features),
            cost.elementwise("decays of chunks", rows, forward=1, backward=chunks > 1),
            cost.fan_out("decays of chunks used", kept, 3),
            cost.elementwise("kept", pairs, forward=2, backward=4),
            Cost(
                name="carry", forward=2 * states, backward=4 * used, useful=2 * states, macs=states
            ),
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
        """Lengths; from them scales (the floor, rsqrt), and from two sums the strength and the
        decay with its factor."""
        return Cost.total(
            "scales",
            cost.elementwise("lengths", 2 * rows * self.features, forward=3, backward=4, macs=1),
            cost.elementwise("unit lengths", 2 * rows, forward=1 + 2, backward=4),
            cost.elementwise("strengths", rows, forward=1 + 4 + 1, backward=1 + 3 + 2),
            cost.elementwise("decays", rows, forward=1 + 4 + 1, backward=1 + 3 + 1),
        )


def _carry(start: Tensor, written: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """States before each chunk, and the one after the last: S <- e^decay (S + written).

    `start` (batch, heads, features, width), `written` (batch, heads, chunks, features, width),
    `total` (batch, heads, chunks), fp64: decays summed to the end of each chunk.
    """
    batch, heads, chunks, features, width = written.shape
    rows = torch.cat([start.to(written.dtype)[:, :, None], written], 2)
    total = torch.cat([torch.zeros_like(total[..., :1]), total], -1)
    since = torch.cat([total[..., :1], total[..., :-1]], -1)  # when the start, and each chunk, came
    place = torch.arange(chunks + 1, device=total.device)
    ahead = place[:, None] < place
    kept = (total[..., None] - since[..., None, :]).masked_fill(ahead, -torch.inf).exp()
    kept = kept.to(written.dtype).flatten(0, 1)
    rows = rows.flatten(0, 1).flatten(2)
    states = torch.bmm(kept[:, :-1], rows).view(batch, heads, chunks, features, width)
    return states, torch.bmm(kept[:, -1:], rows).view(batch, heads, features, width)
