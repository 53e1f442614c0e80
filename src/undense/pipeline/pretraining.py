"""From a pretraining recipe to the untrained model that it describes, FFNs included."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from undense.convert.fresh import fresh_
from undense.train.build import build_model
from undense.train.recipe import PretrainRecipe


def build_from(recipe: PretrainRecipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The host of the recipe with the FFNs of the recipe, untrained, in float32."""
    model = build_model(recipe, tokenizer)
    if recipe.ffn is not None:
        fresh_(model, recipe.ffn)
    return model
