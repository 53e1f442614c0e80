"""From a pretraining recipe to the untrained model that it describes, mixers and FFNs included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from undense.convert.ffns import load_ffns_, save_ffns
from undense.convert.fresh import fresh_
from undense.convert.sites import find_components
from undense.errors import UndenseError
from undense.models.config import SpectralConfig
from undense.models.spectral import SpectralForCausalLM
from undense.pipeline.live import LiveCallback
from undense.train.build import build_model, padding
from undense.train.guide import attach_guides_
from undense.train.pretrain import pretrain
from undense.train.recipe import PretrainRecipe
from undense.train.tokens import end_of_text


def pretrain_from(recipe: PretrainRecipe, output_dir: str | Path) -> dict[str, Any]:
    """Train `recipe` into `output_dir` with a live view in its `tensorboard/`; see `pretrain`."""
    live = LiveCallback(Path(output_dir) / "tensorboard")
    return pretrain(recipe, output_dir, build=build_from, save_ffns=save_ffns, callbacks=[live])


def build_from(recipe: PretrainRecipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The host of the recipe with the mixers, FFNs and guides of the recipe, in float32: untrained,
    but for the FFNs of `ffns_from`."""
    if recipe.host == "spectral":
        return _spectral(recipe, tokenizer)
    model = build_model(recipe, tokenizer)
    if recipe.ffn is not None:
        dense = fresh_(model, recipe.ffn)
        _start_ffns_(model, recipe)
        if recipe.guide:
            ffns = [model.get_submodule(name) for name in dense]
            steps = max(1, round(recipe.guide * recipe.steps))
            attach_guides_(model, ffns, list(dense.values()), steps=steps, seed=recipe.seed)
    return model


def _start_ffns_(model: PreTrainedModel, recipe: PretrainRecipe) -> None:
    """Put the FFNs of `ffns_from` in the places of the fresh ones, which they must equal in all but
    their numbers."""
    if recipe.ffns_from is None:
        return
    fresh = {name: c.config for name, c in find_components(model).items()}
    load_ffns_(model, recipe.ffns_from, keep_dense=False)
    for name, component in find_components(model).items():
        if component.config != fresh[name]:
            raise UndenseError(
                f"{recipe.ffns_from} was saved from a run of another ffn: at {name} it has"
                f" {component.config.to_dict()}, the recipe {fresh[name].to_dict()}"
            )


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
