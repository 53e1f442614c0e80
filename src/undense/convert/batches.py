"""Token batches that calibrate a conversion: checked ones of the user, or the model's own text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from undense.errors import UndenseError

Batch = Tensor | Mapping[str, Tensor]

SEQUENCES = 32
LENGTH = 128


def checked(model: PreTrainedModel, batches: Iterable[Batch] | Batch) -> list[dict[str, Tensor]]:
    """Batches as dictionaries of `input_ids` and `attention_mask`, (rows, tokens), on the CPU.

    A batch is a tensor of token ids or a mapping with `input_ids` (other keys but the mask are
    ignored). Raises `UndenseError` for ids or lengths that the model has no embedding for.
    """
    single = isinstance(batches, Tensor | Mapping)
    listed = [cast(Batch, batches)] if single else list(cast(Iterable[Batch], batches))
    if not listed:
        raise UndenseError("calibration is empty; pass at least one batch of token ids")
    return [_checked(model, batch) for batch in listed]


def _checked(model: PreTrainedModel, batch: Batch) -> dict[str, Tensor]:
    if isinstance(batch, Mapping) and "input_ids" not in batch:
        raise UndenseError(f"a calibration batch needs the key 'input_ids'; got {sorted(batch)}")
    ids = batch["input_ids"] if isinstance(batch, Mapping) else batch
    if not isinstance(ids, Tensor) or ids.is_floating_point():
        kind = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise UndenseError(f"calibration must be integer tensors of token ids; got {kind}")
    ids = ids.detach().cpu().long()
    ids = ids[None] if ids.ndim == 1 else ids
    vocabulary = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise UndenseError(
            f"calibration holds token {int(ids.max())} but the model knows {vocabulary} tokens;"
            " use this model's own tokenizer"
        )
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and ids.shape[1] > limit:
        raise UndenseError(
            f"a calibration sequence has {ids.shape[1]} tokens but the model has {limit}"
            " positions; cut it"
        )
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    mask = torch.ones_like(ids) if mask is None else mask.detach().cpu()
    return {"input_ids": ids, "attention_mask": mask.reshape(ids.shape)}


def self_sampled(
    model: PreTrainedModel, *, sequences: int = SEQUENCES, length: int = LENGTH, seed: int = 0
) -> list[Tensor]:
    """Text that the model writes itself, at temperature 1 over its whole vocabulary.

    It starts at the model's beginning-of-text token, or at random tokens where it has none. What a
    model says is closer to what it was trained on than any text that we could ship, and needs no
    data: LLM-QAT, https://arxiv.org/abs/2305.17888. Returns one batch (sequences, length).

    Raises `UndenseError` for a model without a language-model head.
    """
    if model.get_output_embeddings() is None or not model.can_generate():
        raise UndenseError(
            f"{type(model).__name__} cannot write text to calibrate on; pass calibration=[token"
            " ids, …], or convert the causal language model that it belongs to"
        )
    vocabulary = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    length = min(length, getattr(model.config, "max_position_embeddings", None) or length)
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
