"""Calibration text that the model writes itself, where it is one that writes."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from undense.convert.batches import positions, two_towers, wanted
from undense.convert.families import family
from undense.errors import UndenseError

SEQUENCES = 32
LENGTH = 128


def self_sampled(
    model: PreTrainedModel, *, sequences: int = SEQUENCES, length: int = LENGTH, seed: int = 0
) -> list[Tensor]:
    """Text that the model writes itself, at temperature 1 over its whole vocabulary.

    It starts at the model's beginning-of-text token, or at random tokens where it has none. What a
    model says is closer to what it was trained on than any text that we could ship, and needs no
    data: LLM-QAT, https://arxiv.org/abs/2305.17888. Returns one batch (sequences, length).

    Raises `UndenseError` for a model that is no causal language model: an encoder reads both sides
    of a token, an encoder with a decoder needs a source, and random ones are no evidence.
    """
    if not writes(model):
        raise UndenseError(
            f"{type(model).__name__} cannot write text to calibrate on; pass {wanted(model)}, some"
            " hundred rows of what it will see"
        )
    vocabulary = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    length = min(length, positions(model) or length)
    generator = torch.Generator().manual_seed(seed)
    start = model.config.bos_token_id
    if start is None or not 0 <= start < vocabulary:
        tokens = torch.randint(vocabulary, (sequences, 1), generator=generator)
    else:
        tokens = torch.full((sequences, 1), start)
    written, cache = [tokens], None
    for _ in tqdm(range(length - 1), desc="calibration text", leave=False, disable=None):
        out = model(input_ids=written[-1].to(model.device), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        chances = out.logits[:, -1].float().softmax(-1).cpu()
        if not torch.isfinite(chances).all():
            raise UndenseError(
                "the model's own predictions are NaN, so it cannot be converted; check its weights"
            )
        written.append(torch.multinomial(chances, 1, generator=generator))
    return [torch.cat(written, 1)]


def writes(model: PreTrainedModel) -> bool:
    """Whether the model is a causal language model with its head."""
    alone = getattr(model.config, "is_decoder", False)
    causal = family(model.config.model_type).kind == "causal" or alone
    headed = model.can_generate() and model.get_output_embeddings() is not None
    return bool(causal and headed and not two_towers(model))
