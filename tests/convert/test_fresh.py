"""Untrained components in an untrained model: as loud as the dense FFNs that they replace."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

import undense.ffn  # noqa: F401  (registers the components)
from undense.convert.fresh import fresh_
from undense.convert.sites import find_components

DIM = 48


def host(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if name == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=DIM, n_layer=2, n_head=2))
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=DIM, intermediate_size=4 * DIM, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2,
        )
    )  # fmt: skip


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(
    "ffn", ["narrow-25", "block_topk-30", "low_rank-25", "ultra-all-40", "micro_feedback"]
)
def test_a_component_starts_as_loud_as_what_it_replaces(family: str, ffn: str) -> None:
    model = host(family)
    replaced = fresh_(model, ffn)
    found = find_components(model)
    rows = torch.randn(1, 2000, DIM)
    assert len(found) == 2
    for name, component in found.items():
        wanted = replaced[name].eval()(rows).square().mean().sqrt()
        ratio = (component.eval()(rows).square().mean().sqrt() / wanted).item()
        assert ratio == pytest.approx(1, rel=0.2)


def test_no_ffn_at_all_stays_silent() -> None:
    model = host("gpt2")
    fresh_(model, "none")
    for component in find_components(model).values():
        assert not component(torch.randn(1, 3, DIM)).any()


def test_sizes_without_memory_are_left_alone() -> None:
    with torch.device("meta"):
        model = host("gpt2")
        fresh_(model, "narrow-25")
    assert all(p.is_meta for c in find_components(model).values() for p in c.parameters())
