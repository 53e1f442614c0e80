"""Softmax attention, the yardstick: grouped queries, rotary positions, key-value cache, window.
Source: https://arxiv.org/abs/1706.03762; grouped queries https://arxiv.org/abs/2305.13245."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from undense import cost
from undense.cost import Cost, per_element
from undense.errors import UndenseError
from undense.mixing import (
    GROWS,
    POSITIONS,
    MixerConfig,
    SequenceMixer,
    Slot,
    State,
    register,
    require_finite,
)
from undense.ops import rotary

# Tokens of a long call on a state, or with padding, that meet one mask; a window where that is more
PIECE = 256


@register("attention")
class Attention(SequenceMixer):
    """y = W_o softmax(q k^T / sqrt(width)) v, q, k, v = rotated and split W_qkv x.

    State: positions, keys and values (batch, tokens seen, kv_heads, width); of a window only the
    last `window` - 1 tokens. Rows of a cache end at its last slot: a row that has seen fewer
    tokens than there are slots leaves the first ones unused.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(MixerConfig):
        """`heads` query heads share `kv_heads` key-value heads (None: as many). `rope_base`: of
        the rotary positions, None for no positions. `window`: how many tokens a token sees, itself
        included (None: all). `bias`: on the projections."""

        heads: int = 4
        kv_heads: int | None = None
        rope_base: float | None = 10000.0
        window: int | None = None
        bias: bool = False

        def __post_init__(self) -> None:
            kv_heads = self.heads if self.kv_heads is None else self.kv_heads
            if self.heads < 1 or kv_heads < 1 or self.heads % kv_heads:
                raise UndenseError(
                    f"attention: heads={self.heads} must be a multiple of kv_heads={kv_heads}"
                )
            if self.rope_base is not None and not self.rope_base > 0:
                raise UndenseError(
                    f"attention: rope_base={self.rope_base} must be positive, or None for none"
                )
            if self.window is not None and (self.window < 1 or not self.causal):
                raise UndenseError(
                    f"attention: window={self.window} must be at least 1, in a causal mixer"
                )

    config: Config

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__(dim, config)
        if config.heads > dim or dim % config.heads or dim // config.heads % 2:
            raise UndenseError(
                f"attention: heads={config.heads} must split dim={dim} into equal even widths"
            )
        self.width = dim // config.heads
        self.kv_heads = config.kv_heads or config.heads
        inner = (config.heads + 2 * self.kv_heads) * self.width
        self.project_in = nn.Linear(dim, inner, bias=config.bias)
        self.project_out = nn.Linear(dim, dim, bias=config.bias)

    def layout(self) -> tuple[Slot, ...]:
        if not self.config.causal:
            return ()
        cache = (GROWS, self.kv_heads, self.width)
        return (POSITIONS, Slot("keys", cache), Slot("values", cache))

    def forward(
        self, x: Tensor, state: State | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        self.check(x, state, mask)
        if mask is not None:  # a weight of 0 does not silence what is no number
            x = x.masked_fill(~mask[..., None], 0)
        batch, time, _ = x.shape
        heads, kv_heads, window = self.config.heads, self.kv_heads, self.config.window
        masked = state is not None or mask is not None
        if masked and window is not None and time > 2 * max(window, PIECE):
            return self._in_pieces(x, state, mask, max(window, PIECE))
        seen = x.new_zeros(batch, dtype=torch.int64) if state is None else state[0]
        if mask is None:
            steps = torch.arange(time, device=x.device).expand(batch, time)
        else:
            steps = mask.cumsum(1) - 1
        positions = seen[:, None] + steps
        split = [heads * self.width, kv_heads * self.width, kv_heads * self.width]
        q, k, v = (
            part.unflatten(-1, (-1, self.width)) for part in self.project_in(x).split(split, -1)
        )
        if self.config.rope_base is not None:
            cos, sin = rotary.angles(positions, self.width, self.config.rope_base)
            q, k = rotary.rotate(q, cos, sin), rotary.rotate(k, cos, sin)
        where: Tensor | None = None
        if state is None and mask is None:
            if window is not None and time > 2 * window:
                mixed = _banded(q, k, v, window)
            else:
                allowed = None if window is None or time <= window else _band(x, time, window)
                causal = self.config.causal and allowed is None
                mixed = _attend(q, k, v, allowed, causal)
        else:
            past = _cache_positions(seen, 0 if state is None else state[1].shape[1])
            real = torch.ones_like(positions, dtype=torch.bool) if mask is None else mask
            where = torch.cat([past, torch.where(real, positions, -1)], 1)
            if state is not None:
                k, v = torch.cat([state[1], k], 1), torch.cat([state[2], v], 1)
            mixed = _attend(q, k, v, self._allowed(positions, where), False)
        y = self.project_out(mixed.flatten(2))
        if mask is not None:
            y = y * mask[..., None]
        require_finite("attention", y)
        if not self.config.causal:
            return y, ()
        if mask is not None and where is not None:  # the unused slots of a cache are its first ones
            order = (where >= 0).long().argsort(dim=1, stable=True)[..., None, None]
            k, v = torch.take_along_dim(k, order, 1), torch.take_along_dim(v, order, 1)
        if window is not None:
            kept = max(0, k.shape[1] - (window - 1))
            k, v = k[:, kept:], v[:, kept:]
        seen = seen + (time if mask is None else mask.sum(1))
        return y, (seen, k, v)

    def _in_pieces(
        self, x: Tensor, state: State | None, mask: Tensor | None, size: int
    ) -> tuple[Tensor, State]:
        """The same, `size` tokens at a time: a mask of all would grow with the square of them."""
        found = []
        masks = [None] * x.shape[1] if mask is None else mask.split(size, 1)
        for piece, hidden in zip(x.split(size, 1), masks, strict=False):
            y, state = self(piece, state, hidden)
            found.append(y)
        assert state is not None
        return torch.cat(found, 1), state

    def _allowed(self, positions: Tensor, where: Tensor) -> Tensor:
        """(batch, 1, queries, keys): real keys, of them the past, of it the window.

        A query that sees nothing (padding) is let see everything: softmax needs something to
        normalise, and its output is dropped.
        """
        allowed = (where >= 0)[:, None, :]
        if self.config.causal:
            distance = positions[:, :, None] - where[:, None, :]
            allowed = allowed & (distance >= 0)
            if self.config.window is not None:
                allowed = allowed & (distance < self.config.window)
            allowed = allowed | ~allowed.any(-1, keepdim=True)
        return allowed[:, None]

    def cost(self, batch: int, length: int, *, past: int = 0) -> Cost:
        tokens, window = batch * length, self.config.window
        if past and window is not None and length > 2 * (size := max(window, PIECE)):
            pieces = [
                self.cost(batch, min(size, length - start), past=past + start)
                for start in range(0, length, size)
            ]
            return Cost.total("attention", *pieces)
        inner = self.project_in.out_features
        parts = [
            cost.linear("in", tokens, self.dim, inner, bias=self.config.bias),
        ]
        if self.config.rope_base is not None:
            turned = tokens * (self.config.heads + self.kv_heads) * self.width
            parts += [
                rotary.angles_cost("angles", tokens, self.width),
                rotary.rotate_cost("rotate", turned),
            ]
        keys, masked = length, past > 0
        queries = tokens * self.config.heads
        if past:
            keys = length + (past if window is None else min(past, window - 1))
        elif window is not None and length > 2 * window:
            blocks = -(-length // window)
            padded = batch * blocks * window
            queries, keys, masked = padded * self.config.heads, 2 * window, True
            cached = 2 * padded * self.kv_heads * self.width
            parts.append(cost.fan_out("keys and values of two blocks", cached, 2))
        elif window is not None and length > window:
            masked = True
        parts += [
            _attention_cost("attend", queries * keys, queries, self.width, masked=masked),
            cost.linear("out", tokens, self.dim, self.dim, bias=self.config.bias),
        ]
        return Cost.total("attention", *parts)


def _attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, causal: bool) -> Tensor:
    """(batch, queries, heads, width) with (batch, keys, kv_heads, width)."""
    mixed = scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=allowed,
        is_causal=causal,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return mixed.transpose(1, 2)


def _band(x: Tensor, time: int, window: int) -> Tensor:
    distance = torch.arange(time, device=x.device)
    distance = distance[:, None] - distance[None, :]
    return (distance >= 0) & (distance < window)


def _banded(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Windowed attention in blocks of a window: each sees itself and the block before it."""
    batch, time = q.shape[:2]
    blocks = -(-time // window)
    pad = (0, 0, 0, 0, 0, blocks * window - time)

    def fold(x: Tensor) -> Tensor:
        return nn.functional.pad(x, pad).unflatten(1, (blocks, window))

    def with_previous(x: Tensor) -> Tensor:
        x = fold(x)
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
        return torch.cat([before, x], 2).flatten(0, 1)

    query = torch.arange(window, device=q.device)[:, None] + window
    key = torch.arange(2 * window, device=q.device)[None, :]
    near = (key <= query) & (query - key < window)
    first = torch.arange(blocks, device=q.device)[:, None, None] == 0
    allowed = near & ~(first & (key < window))  # (blocks, window, 2 window)
    allowed = allowed.expand(batch, -1, -1, -1).flatten(0, 1)[:, None]
    mixed = _attend(fold(q).flatten(0, 1), with_previous(k), with_previous(v), allowed, False)
    return mixed.unflatten(0, (batch, blocks)).flatten(1, 2)[:, :time]


def _cache_positions(seen: Tensor, slots: int) -> Tensor:
    """Positions of the tokens in a cache whose rows end at its last slot; negative: unused."""
    return seen[:, None] - slots + torch.arange(slots, device=seen.device)


def _attention_cost(name: str, scores: int, queries: int, width: int, *, masked: bool) -> Cost:
    """Every query meets every key, what a mask hides included; `scores` pairs, `queries` rows."""
    forward = scores * (4 * width + per_element("attention_score") + masked)
    backward = scores * (10 * width + per_element("attention_score_backward") + masked)
    backward += queries * width * per_element("attention_output_backward")
    return Cost(
        name=name,
        forward=forward,
        backward=backward,
        useful=forward,
        macs=scores * (2 * width + 1),
        activations=4 * queries * width,
    )
