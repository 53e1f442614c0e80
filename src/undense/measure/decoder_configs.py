"""Which decoder a Hugging Face config describes. Another family is one function here."""

from __future__ import annotations

from typing import Any

from undense import cost
from undense.cost import Cost, per_element
from undense.measure.decoder import Decoder, FFNCost
from undense.ops.activation import canonical

# "gelu_new" runs as eight operations and differentiates as eight; no table entry has that price.
GELU_NEW_BACKWARD = 14


def decoder_of(config: Any) -> Decoder | None:
    """The decoder that a Hugging Face config describes; None for a family without a formula."""
    kind = config.model_type.removeprefix("undense_")
    if kind == "gpt2":
        return _gpt2(config)
    if kind in ("llama", "mistral", "qwen2", "qwen3"):
        return _llama(config, kind)
    return None


def _gpt2(config: Any) -> Decoder:
    dim = config.n_embd
    ffn = dense_ffn(
        dim,
        config.n_inner or 4 * dim,
        gated=False,
        activation=config.activation_function,
        bias=True,
    )
    return Decoder(
        dim=dim,
        heads=config.n_head,
        kv_heads=config.n_head,
        head_dim=dim // config.n_head,
        vocab=config.vocab_size,
        ffns=(ffn,) * config.n_layer,
        tied=config.tie_word_embeddings,
        learned_positions=config.n_positions,
        qkv_bias=True,
        out_bias=True,
    )


def _llama(config: Any, kind: str) -> Decoder:
    heads = config.num_attention_heads
    bias = bool(getattr(config, "attention_bias", False))
    ffn = dense_ffn(
        config.hidden_size,
        config.intermediate_size,
        gated=True,
        activation=config.hidden_act,
        bias=bool(getattr(config, "mlp_bias", False)),
    )
    return Decoder(
        dim=config.hidden_size,
        heads=heads,
        kv_heads=config.num_key_value_heads or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocab=config.vocab_size,
        ffns=(ffn,) * config.num_hidden_layers,
        tied=config.tie_word_embeddings,
        qkv_bias=bias or kind == "qwen2",
        out_bias=bias,
        qk_norm=kind == "qwen3",
        window=getattr(config, "sliding_window", None) if kind == "mistral" else None,
    )


def dense_ffn(dim: int, hidden: int, *, gated: bool, activation: str, bias: bool) -> FFNCost:
    """The cost of a host's own dense FFN, as its module runs it."""

    def act(numbers: int) -> Cost:
        if activation != "gelu_new":
            return cost.activation("activation", numbers, canonical(activation))
        forward = per_element("gelu_tanh")
        return cost.elementwise(
            "activation", numbers, forward=forward, backward=GELU_NEW_BACKWARD, macs=6
        )

    def plain(tokens: int) -> Cost:
        return Cost.total(
            "dense",
            cost.linear("up", tokens, dim, hidden, bias=bias),
            act(tokens * hidden),
            cost.linear("down", tokens, hidden, dim, bias=bias),
        )

    def with_gate(tokens: int) -> Cost:
        return Cost.total(
            "gated dense",
            cost.linear("gate", tokens, dim, hidden, bias=bias),
            act(tokens * hidden),
            cost.linear("up", tokens, dim, hidden, bias=bias),
            cost.product("gating", tokens * hidden),
            cost.fan_out("input read twice", tokens * dim, 2),
            cost.linear("down", tokens, hidden, dim, bias=bias),
        )

    return with_gate if gated else plain
