"""Tiny random models of every supported family, and inputs for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from undense.convert import convert

VOCABULARY = 97
POSITIONS = 64
DIM = 48
IMAGE = {"image_size": 8, "patch_size": 2, "num_channels": 3}  # 16 patches and a class token

_GPT = {"n_positions": POSITIONS, "n_embd": DIM, "n_layer": 2, "n_head": 4}
_LLAMA = {
    "hidden_size": DIM,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": POSITIONS,
}
_BERT = {
    "hidden_size": DIM,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
}
_T5 = {"d_model": DIM, "d_kv": 12, "d_ff": 96, "num_layers": 2, "num_heads": 4}

# Every family by its type; behind a "/" a second variant of it.
HOSTS: dict[str, dict[str, Any]] = {
    "gpt2": _GPT,
    "gptj": _GPT | {"rotary_dim": 8},
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "phi3": {key: value for key, value in _LLAMA.items() if key != "head_dim"},
    "bert": _BERT,
    "roberta": _BERT,
    "t5": _T5 | {"decoder_start_token_id": 1},
    "t5/gated": _T5 | {"decoder_start_token_id": 1, "feed_forward_proj": "gated-gelu"},
    "bart": {
        "d_model": DIM,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 96,
        "decoder_ffn_dim": 120,
        "activation_dropout": 0.1,
        "max_position_embeddings": POSITIONS,
        "decoder_start_token_id": 1,
        "forced_eos_token_id": None,
    },
    "vit": {key: _BERT[key] for key in _BERT if key != "max_position_embeddings"} | IMAGE,
}


def config_of(host: str) -> Any:
    """Two layers of width 48."""
    kind = host.partition("/")[0]
    common = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    scale = "initializer_factor" if kind == "t5" else "initializer_range"
    scale = "init_std" if kind == "bart" else scale
    values = {scale: 1.0 if kind == "t5" else 0.15}
    return AutoConfig.for_model(kind, **(common if kind != "vit" else {}), **values, **HOSTS[host])


def tiny(host: str, auto: Any = None) -> PreTrainedModel:
    """A model of a host, weights large enough for the FFNs to matter, in eval mode. `auto`: the
    Auto class of its head; by default the family's usual one."""
    torch.manual_seed(1)
    config = config_of(host)
    model = (auto or convert._auto_class(config)).from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # zero at random start, which would hide a forgotten one
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def inputs(model: PreTrainedModel, *, rows: int = 2, tokens: int = 11, seed: int = 3) -> dict:
    """A batch for a model: ids, ids and target ids, or pixels."""
    generator = torch.Generator().manual_seed(seed)
    if model.main_input_name == "pixel_values":
        shape = (rows, IMAGE["num_channels"], IMAGE["image_size"], IMAGE["image_size"])
        return {"pixel_values": torch.randn(shape, generator=generator)}
    batch = {"input_ids": torch.randint(2, VOCABULARY, (rows, tokens), generator=generator)}
    if model.config.is_encoder_decoder:
        shape = (rows, tokens - 4)
        batch["decoder_input_ids"] = torch.randint(2, VOCABULARY, shape, generator=generator)
    return batch


def calibration(model: PreTrainedModel) -> list[dict[str, Tensor]]:
    """Two batches, some hundred tokens."""
    return [inputs(model, rows=8, tokens=24, seed=seed) for seed in (5, 6)]


def outputs(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """What the model's head, or the base model, puts out first."""
    with torch.no_grad():
        return model(**batch)[0]
