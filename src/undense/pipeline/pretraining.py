"""From a pretraining recipe to the untrained model that it describes, mixers and FFNs included."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from undense.convert.fresh import fresh_
from undense.models.config import SpectralConfig
from undense.models.spectral import SpectralForCausalLM
from undense.train.build import build_model, padding
from undense.train.guide import attach_guides_
from undense.train.recipe import PretrainRecipe
from undense.train.tokens import end_of_text


def build_from(recipe: PretrainRecipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The host of the recipe with the mixers, FFNs and guides of the recipe, untrained, in
    float32."""
    if recipe.host == "spectral":
        return _spectral(recipe, tokenizer)
    model = build_model(recipe, tokenizer)
    if recipe.ffn is not None:
        dense = fresh_(model, recipe.ffn)
        if recipe.guide:
            ffns = [model.get_submodule(name) for name in dense]
            steps = max(1, round(recipe.guide * recipe.steps))
            attach_guides_(model, ffns, list(dense.values()), steps=steps, seed=recipe.seed)
    return model


def _spectral(recipe: PretrainRecipe, tokenizer: PreTrainedTokenizerBase) -> SpectralForCausalLM:
    given: dict[str, Any] = {} if recipe.mixer is None else {"mixer": recipe.mixer}
    config = SpectralConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=recipe.intermediate,
        ffn=recipe.ffn,
        attention_every=recipe.attention_every,
        max_position_embeddings=recipe.context,
        bos_token_id=end_of_text(tokenizer),
        eos_token_id=end_of_text(tokenizer),
        pad_token_id=padding(tokenizer),
        **given,
    )
    return SpectralForCausalLM(config)
