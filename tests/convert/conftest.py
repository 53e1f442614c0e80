"""Tiny random models of every supported family, and calibration text for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import undense  # noqa: F401  (registers converted models)

VOCABULARY = 97
POSITIONS = 64

Make = Callable[[str], PreTrainedModel]

GATED = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def tiny(family: str) -> PreTrainedModel:
    """Two layers of width 48, weights large enough for the FFNs to matter, in eval mode."""
    torch.manual_seed(1)
    common = {
        "vocab_size": VOCABULARY,
        "initializer_range": 0.15,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    if family == "gpt2":
        config = GPT2Config(n_positions=POSITIONS, n_embd=48, n_layer=2, n_head=4, **common)
        model: PreTrainedModel = GPT2LMHeadModel(config)
    else:
        config_class, model_class = GATED[family]
        config = config_class(
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=12,
            max_position_embeddings=POSITIONS,
            **common,
        )
        model = model_class(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # zero at random start, which would hide a forgotten one
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture(scope="session")
def make() -> Make:
    """A tiny model of a family by its name."""
    return tiny


@pytest.fixture
def gpt2() -> PreTrainedModel:
    return tiny("gpt2")


@pytest.fixture
def llama() -> PreTrainedModel:
    return tiny("llama")


@pytest.fixture
def text() -> Tensor:
    """Calibration: 16 sequences of 32 tokens."""
    return torch.randint(VOCABULARY, (16, 32), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def prompt() -> Tensor:
    """Two sequences of 11 tokens to compare logits on."""
    return torch.randint(VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(3))
