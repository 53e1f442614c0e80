"""What a decoder-only language model costs, by formula: no model is built.

The layouts of GPT-2 and of Llama with those that copied it (Mistral, Qwen2, Qwen3), as
`transformers` runs them, operation by operation, so that the sums equal what the counter sees to
the integer. Attention is counted at the full square (see `attention.py`); `causal_pairs` says what
a kernel that skips the hidden half would save.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from undense import cost
from undense.cost import Cost, per_element

FFNCost = Callable[[int], Cost]

# `x.pow(2).mean()`, `* rsqrt(mean + eps)`, `* weight`: a number; then the sum and the root: a row.
_RMS_NUMBER, _RMS_ROW = (5, 3)
# three for the weight (g * w, g * x, sum), three for the factor, div, power 4, one accumulation
_RMS_BACK_NUMBER, _RMS_BACK_ROW = (12, 4)


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """The sizes that decide the cost. `ffns`: the cost of each layer's FFN for a number of tokens.

    `window`: keys that a query sees, None for all. `qk_norm`: RMSNorm on every query and key head.
    `learned_positions`: GPT-2's table instead of rotations; such models have LayerNorm, the others
    RMSNorm.
    """

    dim: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    ffns: tuple[FFNCost, ...]
    tied: bool
    learned_positions: int | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    window: int | None = None

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return len(self.ffns)

    def kv_cache_numbers(self, tokens: int) -> int:
        """Numbers that the keys and values of `tokens` tokens of one sequence take."""
        kept = tokens if self.window is None else min(tokens, self.window - 1)
        return 2 * self.layers * self.kv_heads * self.head_dim * kept


@dataclass(frozen=True, kw_only=True)
class Workload:
    """`batch` sequences, `tokens` new ones in each after `past` cached; `labels`: with the loss."""

    batch: int = 1
    tokens: int
    past: int = 0
    labels: bool = False

    @property
    def rows(self) -> int:
        """New tokens of all sequences."""
        return self.batch * self.tokens


def decoder_cost(model: Decoder, work: Workload) -> Cost:
    """One forward (and its backward) as a tree: parts of the model, summed over the layers."""
    layers = model.layers
    norms = [_norm("before attention and FFN", model, work.rows, calls=2 * layers)]
    norms.append(_norm("after the last layer", model, work.rows, calls=1))
    if model.qk_norm:
        for name, heads in (("queries", model.heads), ("keys", model.kv_heads)):
            norms.append(_rms(name, work.rows * heads, model.head_dim, layers, model.head_dim))
    numbers = work.rows * model.dim
    residual = Cost.total(
        "residual",
        times(layers, cost.elementwise("additions", 2 * numbers, macs=0)),
        times(layers, cost.fan_out("stream read twice", 2 * numbers, 2)),
    )
    parts = [
        _embeddings(model, work),
        _attention(model, work),
        Cost.total("ffn", *_grouped([ffn(work.rows) for ffn in model.ffns])),
        Cost.total("norms", *norms),
        residual,
        _head(model, work),
    ]
    if work.labels:
        parts.append(_loss(model, work))
    return Cost.total("model", *parts)


def causal_pairs(work: Workload) -> tuple[int, int]:
    """Pairs of a query and a key in one head of one sequence: all, and those in its past."""
    full = work.tokens * (work.past + work.tokens)
    return full, work.tokens * work.past + work.tokens * (work.tokens + 1) // 2


def times(count: int, one: Cost) -> Cost:
    """`count` like `one`: every figure of the tree multiplied, weights too."""
    return replace(
        one,
        forward=count * one.forward,
        backward=count * one.backward,
        useful=count * one.useful,
        macs=count * one.macs,
        weights=count * one.weights,
        activations=count * one.activations,
        parts=tuple(times(count, part) for part in one.parts),
    )


def _grouped(costs: Sequence[Cost]) -> list[Cost]:
    kinds: dict[Cost, int] = {}
    for one in costs:
        kinds[one] = kinds.get(one, 0) + 1
    return [times(n, one).named(f"{one.name} x {n}") for one, n in kinds.items()]


def _embeddings(model: Decoder, work: Workload) -> Cost:
    numbers = work.rows * model.dim
    tokens = replace(cost.gather("tokens", numbers), weights=model.vocab * model.dim)
    if model.learned_positions is None:
        half = work.tokens * model.head_dim // 2
        angles = cost.elementwise("angles", half)
        waves = cost.elementwise("cos and sin", 4 * half)
        scaling = cost.elementwise("scaling", 4 * half)
        return Cost.total("embeddings", tokens, angles, waves, scaling)
    table = replace(
        cost.gather("positions", work.tokens * model.dim),
        weights=model.learned_positions * model.dim,
    )
    # One row of positions serves the whole batch, so its gradient is a sum over the batch.
    shared = numbers if work.batch > 1 else 0
    added = replace(cost.add("sum of both", numbers), backward=shared)
    return Cost.total("embeddings", tokens, table, added)


def _attention(model: Decoder, work: Workload) -> Cost:
    query, key = (model.heads * model.head_dim, model.kv_heads * model.head_dim)
    linear = cost.linear
    rows, dim, layers = (work.rows, model.dim, model.layers)
    projections = [
        linear("queries", rows, dim, query, bias=model.qkv_bias),
        linear("keys", rows, dim, key, bias=model.qkv_bias),
        linear("values", rows, dim, key, bias=model.qkv_bias),
    ]
    if model.learned_positions is None:  # three maps of one input; GPT-2 has one
        projections.append(cost.fan_out("input read thrice", rows * dim, 3))
    parts = [Cost.total("projections", *projections)]
    if model.learned_positions is None:
        turned = rows * (query + key)
        half = turned // 2
        # x * cos + [-x2, x1] * sin; back: both products, the sign, and two accumulations
        rotation = Cost(name="rotation", forward=7 * half, backward=9 * half, macs=4 * half)
        parts.append(replace(rotation, useful=7 * half, activations=2 * turned))
    keys, masked = _keys(model, work)
    scores = work.batch * model.heads * work.tokens * keys
    width = model.head_dim
    parts.append(_product("scores", scores * width, back=3))
    each = per_element("attention_score") + masked
    each_back = per_element("attention_score_backward") + masked
    softmax = cost.elementwise("softmax", scores, forward=each, backward=each_back, macs=1)
    delta = per_element("attention_output_backward") * rows * query
    parts.append(replace(softmax, backward=softmax.backward + delta))
    parts.append(_product("weighted sum", scores * width, back=2))
    if masked and model.kv_heads < model.heads:  # with a mask, transformers repeats the heads
        repeated = 2 * work.batch * keys * query
        parts.append(Cost(name="heads repeated", backward=repeated, activations=2 * repeated))
    parts.append(linear("output", rows, query, dim, bias=model.out_bias))
    return times(layers, Cost.total("attention", *parts))


def _keys(model: Decoder, work: Workload) -> tuple[int, bool]:
    """Keys that the kernel reads for a query, and whether it adds a mask to the scores."""
    keys = work.past + work.tokens
    if model.window is None:
        return keys, work.past > 0 and work.tokens > 1
    held = min(work.past, model.window - 1)  # the cache of a window drops what no query will see
    return held + work.tokens, keys > model.window or (work.past > 0 and work.tokens > 1)


def _product(name: str, multiplies: int, *, back: int) -> Cost:
    """A product of activations; `back` products as large on the way back (the scores again too)."""
    return Cost(
        name=name,
        forward=2 * multiplies,
        backward=2 * back * multiplies,
        useful=2 * multiplies,
        macs=multiplies,
    )


def _norm(name: str, model: Decoder, rows: int, *, calls: int) -> Cost:
    if model.learned_positions is not None:
        return times(calls, cost.layer_norm(name, rows, model.dim))
    return _rms(name, rows, model.dim, calls, model.dim)


def _rms(name: str, rows: int, width: int, calls: int, weights: int) -> Cost:
    numbers = rows * width
    forward = _RMS_NUMBER * numbers + _RMS_ROW * rows
    one = Cost(
        name=name,
        forward=forward,
        backward=_RMS_BACK_NUMBER * numbers + _RMS_BACK_ROW * rows,
        useful=forward,
        macs=3 * numbers + rows,
        weights=weights,
        activations=2 * numbers,
    )
    return times(calls, one)


def _head(model: Decoder, work: Workload) -> Cost:
    head = cost.linear("vocabulary", work.rows, model.dim, model.vocab, bias=False)
    if not model.tied:
        return Cost.total("head", head)
    # The same table as the embedding: counted once as weights, its two gradients added.
    shared = cost.fan_out("table used twice", model.vocab * model.dim, 2)
    return Cost.total("head", replace(head, weights=0), shared)


def _loss(model: Decoder, work: Workload) -> Cost:
    numbers = work.rows * model.vocab
    softmax = cost.elementwise(
        "log-softmax",
        numbers,
        forward=per_element("log_softmax"),
        backward=per_element("log_softmax_backward"),
        macs=1,
    )
    picked = cost.elementwise(
        "likelihood",
        work.rows,
        forward=per_element("nll_loss"),
        backward=per_element("nll_loss_backward"),
        macs=0,
    )
    return Cost.total("loss", softmax, picked)
