"""The one place where a recipe becomes a model."""

import math

from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from undense.errors import UndenseError
from undense.train.recipe import PretrainRecipe
from undense.train.tokens import end_of_text


def build_model(recipe: PretrainRecipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The host that a recipe describes, in float32, drawn from the global random state.

    Its FFNs are the host's own: a recipe that names others is built in `pipeline/pretraining.py`.
    """
    if recipe.host == "spectral":
        raise UndenseError(
            "recipe: host='spectral' is built by undense.pipeline.pretraining.build_from;"
            " pass it as build="
        )
    return _gpt2(recipe, tokenizer) if recipe.host == "gpt2" else _llama(recipe, tokenizer)


def _gpt2(recipe: PretrainRecipe, tokenizer: PreTrainedTokenizerBase) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=recipe.context,
        n_embd=recipe.hidden_size,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        n_inner=recipe.intermediate,
        # The same function as GPT-2's own "gelu_new", in one kernel instead of seven: a
        # needlessly slow activation would flatter whatever replaces the dense FFN.
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end_of_text(tokenizer),
        eos_token_id=end_of_text(tokenizer),
        pad_token_id=padding(tokenizer),
    )
    model = GPT2LMHeadModel(config)
    # transformers takes the loss's type from the class name, which this class does not carry; the
    # Trainer then counts one prediction a block too many, and reports (context − 1) / context of
    # the loss.
    model.loss_type = "ForCausalLM"
    return model


def _llama(recipe: PretrainRecipe, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    # Three matrices of 8d/3 cost what GPT-2's two of 4d do.
    default = 16 * math.ceil(8 * recipe.hidden_size / 3 / 16)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=recipe.context,
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=recipe.intermediate or default,
        tie_word_embeddings=True,
        bos_token_id=end_of_text(tokenizer),
        eos_token_id=end_of_text(tokenizer),
        pad_token_id=padding(tokenizer),
    )
    return LlamaForCausalLM(config)


def padding(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The padding token's id, None where the tokenizer has none."""
    found = tokenizer.pad_token_id
    assert found is None or isinstance(found, int)
    return found
