"""Configs that come with the package, so that a large model can be costed without a network."""

from __future__ import annotations

from collections.abc import Callable

from transformers import GPT2Config, LlamaConfig, MistralConfig, PreTrainedConfig, Qwen3Config

from undense.errors import UndenseError

EXAMPLE = "example:"


def _gpt2_medium() -> PreTrainedConfig:
    return GPT2Config(n_embd=1024, n_layer=24, n_head=16)


def _smollm2_135m() -> PreTrainedConfig:
    return LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )


def _llama_7b() -> PreTrainedConfig:
    return LlamaConfig(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        vocab_size=32000,
        max_position_embeddings=4096,
    )


def _llama3_8b() -> PreTrainedConfig:
    return LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=8192,
    )


def _mistral_7b() -> PreTrainedConfig:
    return MistralConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=32000,
        sliding_window=4096,
    )


def _qwen3_8b() -> PreTrainedConfig:
    return Qwen3Config(
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
    )


EXAMPLES: dict[str, Callable[[], PreTrainedConfig]] = {
    "gpt2": GPT2Config,
    "gpt2-medium": _gpt2_medium,
    "smollm2-135m": _smollm2_135m,
    "llama-7b": _llama_7b,
    "llama3-8b": _llama3_8b,
    "mistral-7b": _mistral_7b,
    "qwen3-8b": _qwen3_8b,
}


def example_config(name: str) -> PreTrainedConfig:
    """The config of `example:NAME`. Raises `UndenseError` for a name that is none of them."""
    short = name.removeprefix(EXAMPLE)
    if short not in EXAMPLES:
        known = ", ".join(f"{EXAMPLE}{each}" for each in EXAMPLES)
        raise UndenseError(f"model {name!r}: there is no such example config; known: {known}")
    return EXAMPLES[short]()
