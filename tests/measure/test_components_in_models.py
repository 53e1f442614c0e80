"""Every component inside real model classes: its formula is what it dispatches there, both ways."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import undense.ffn  # noqa: F401 - registers the components
from undense.contract import build, components
from undense.measure.flops import count_flops

GPT = {"n_embd": 48, "n_layer": 2, "n_head": 2, "n_positions": 32}
FAMILIES = {
    "gpt2": GPT,
    "gptj": GPT | {"rotary_dim": 8},  # attention and FFN read the same normed input
    "llama": {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}


@pytest.mark.parametrize("component", components())
@pytest.mark.parametrize("family", FAMILIES)
def test_formula_equals_dispatched_inside_a_model(family: str, component: str) -> None:
    config = AutoConfig.for_model(
        family, vocab_size=64, bos_token_id=0, eos_token_id=1, **FAMILIES[family]
    )
    model = AutoModelForCausalLM.from_config(config).train()
    layers = model.model.layers if family == "llama" else model.transformer.h
    for layer in layers:
        layer.mlp = build(48, components()[component].Config())
    ids = torch.randint(0, 64, (2, 13))
    count = count_flops(
        lambda: model(input_ids=ids, labels=ids), model=model, backward=True, strict=True
    )
    assert [part.component for part in count.components] == [component, component]
    for part in count.components:
        assert part.analytic_forward == part.dispatched_forward
        assert part.analytic_backward == part.dispatched_backward
    assert count.analytic == count.dispatched
