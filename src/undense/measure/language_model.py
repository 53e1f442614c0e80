"""Counting a whole language model's forward pass without memory for its weights."""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from undense.measure.count import Count
from undense.measure.flops import count_flops


def empty_model(config: PreTrainedConfig) -> nn.Module:
    """The causal language model of a config on the meta device: sizes, and no numbers."""
    config = copy.deepcopy(config)
    # With a padding token transformers looks for it in the values of the ids, which meta tensors
    # do not have.
    config.pad_token_id = None
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config).eval()  # as it is used: no dropout


def count_forward(model: nn.Module, tokens: int, *, strict: bool = False) -> Count:
    """FLOPs of one forward pass over a block of `tokens` tokens, attention at the full price of
    every pair of positions. `model`: from `empty_model`."""
    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    # Without a cache transformers looks for packed sequences in the values of the positions;
    # filling a cache costs no FLOP.
    with torch.no_grad():
        return count_flops(lambda: model(input_ids=ids, use_cache=True), model=model, strict=strict)
