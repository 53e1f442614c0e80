"""The formulas of a whole decoder against what the counter sees, to the integer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    ViTConfig,
)

from undense.measure.decoder import Workload, decoder_cost
from undense.measure.decoder_configs import decoder_of
from undense.measure.flops import count_flops
from undense.measure.whole_model import count_workload, empty, places

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 64}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SMALL),
    "llama, biases, tied": LlamaConfig(
        **SMALL, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "mistral": MistralConfig(**SMALL, sliding_window=None),
    "mistral, window": MistralConfig(**SMALL, sliding_window=5),
    "qwen2": Qwen2Config(**SMALL),
    "qwen3": Qwen3Config(**SMALL, head_dim=16),
    "gpt2": GPT2Config(**GPT2, **ENDS),
    "gpt2, one kernel": GPT2Config(**GPT2, **ENDS, activation_function="gelu_pytorch_tanh"),
}
MODELS = {name: empty(config) for name, config in CONFIGS.items()}


def test_bart_is_counted_without_memory_as_it_is_with_it() -> None:
    """It makes a mask for its decoder, into which transformers looks."""
    config = BartConfig(
        vocab_size=50,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=32,
        forced_eos_token_id=None,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    real = BartForConditionalGeneration(config).eval()
    ids = torch.full((2, 7), 5)
    empty_count = count_workload(empty(config), Workload(batch=2, tokens=7, labels=True)).count
    count = count_flops(
        lambda: real(input_ids=ids, decoder_input_ids=ids, labels=ids), model=real, backward=True
    )
    assert (empty_count.forward, empty_count.backward) == (count.forward, count.backward)


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3), tokens=st.integers(1, 12), past=st.integers(0, 9), labels=st.booleans()
)
def test_formula_equals_count(name: str, batch: int, tokens: int, past: int, labels: bool) -> None:
    work = Workload(batch=batch, tokens=tokens, past=0 if labels else past, labels=labels)
    decoder = decoder_of(CONFIGS[name])
    assert decoder is not None
    formula, counted = decoder_cost(decoder, work), count_workload(MODELS[name], work)
    assert formula.forward == counted.count.forward
    assert formula.macs == counted.count.macs
    assert counted.count.backward == (formula.backward if labels else 0)
    assert counted.cached == batch * decoder.kv_cache_numbers(work.past + tokens)


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_of_the_formula_are_the_parameters(name: str) -> None:
    decoder = decoder_of(CONFIGS[name])
    assert decoder is not None
    weights = decoder_cost(decoder, Workload(tokens=1)).weights
    assert weights == MODELS[name].num_parameters()


def test_two_layers_of_a_7b_model_by_formula_and_counted() -> None:
    """The matrices of a 7B Llama by hand, too; the layers are all alike, so two say it of 32."""
    dim, hidden, vocab, tokens = 4096, 11008, 32000, 24
    config = LlamaConfig(num_hidden_layers=2)
    assert (config.hidden_size, config.intermediate_size, config.vocab_size) == (dim, hidden, vocab)
    decoder = decoder_of(config)
    assert decoder is not None
    work = Workload(tokens=tokens, labels=True)
    formula, count = decoder_cost(decoder, work), count_workload(empty(config), work).count
    assert (formula.forward, formula.backward) == (count.forward, count.backward)
    layer = 4 * dim * dim + 3 * dim * hidden
    assert count.by_op["aten.mm"].flops == 3 * 2 * tokens * (2 * layer + dim * vocab)


def test_a_model_with_weights_counts_the_same() -> None:
    config = CONFIGS["llama"]
    model = LlamaForCausalLM(config).eval()
    model.loss_type = "ForCausalLM"
    ids = torch.arange(16).view(2, 8)
    count = count_flops(lambda: model(input_ids=ids, labels=ids), model=model, backward=True)
    decoder = decoder_of(config)
    assert decoder is not None
    formula = decoder_cost(decoder, Workload(batch=2, tokens=8, labels=True))
    assert (formula.forward, formula.backward) == (count.forward, count.backward)


def test_a_family_without_a_formula_is_counted_part_by_part() -> None:
    config = ViTConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, image_size=32)
    config.num_attention_heads = 4
    assert decoder_of(config) is None
    counted = count_workload(empty(config), Workload(tokens=1))
    parts = {place.path: place for place in places(counted.count.tree)}
    assert counted.cached is None
    assert sum(place.forward for place in parts.values()) == counted.count.forward
    (up,) = [
        p for name, p in parts.items() if "*" in name and p.forward == 2 * 5 * (2 * 32 + 1) * 64
    ]
    assert up.calls == 2
