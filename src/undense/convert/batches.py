"""Batches that calibrate a conversion, checked: token ids, source and target ids, or pixels."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from undense.convert.families import family
from undense.errors import UndenseError

Batch = Tensor | Mapping[str, Tensor]

MASKS = {"input_ids": "attention_mask", "decoder_input_ids": "decoder_attention_mask"}
UNUSED = ("labels", "past_key_values", "inputs_embeds", "decoder_inputs_embeds", "encoder_outputs")


def checked(model: PreTrainedModel, batches: Iterable[Batch] | Batch) -> list[dict[str, Tensor]]:
    """Batches as dictionaries of tensors on the CPU that the base model takes.

    A batch is a tensor of what the model reads first (token ids; pixels for a vision model) or a
    mapping. Token ids, (rows, tokens), get a mask where there is none; keys that the base model has
    no argument for are left out. A model with encoder and decoder needs `decoder_input_ids`, or
    `labels` to shift; one without a language-model head reads its own input shifted, as its forward
    does. Raises `UndenseError` for what does not fit the model.
    """
    single = isinstance(batches, Tensor | Mapping)
    listed = [cast(Batch, batches)] if single else list(cast(Iterable[Batch], batches))
    if not listed:
        raise UndenseError(f"calibration is empty; pass at least one batch: {wanted(model)}")
    return [_checked(model, batch) for batch in listed]


def wanted(model: PreTrainedModel) -> str:
    """What a calibration of this model looks like."""
    if model.main_input_name == "pixel_values":
        return "calibration=[{'pixel_values': (rows, channels, height, width)}, …]"
    if two_towers(model):
        return "calibration=[{'input_ids': …, 'decoder_input_ids': … (or 'labels')}, …]"
    return "calibration=[token ids, …] or [{'input_ids': …, 'attention_mask': …}, …]"


def two_towers(model: PreTrainedModel) -> bool:
    """Whether the model reads a source and a target."""
    return "decoder_input_ids" in arguments(model)


def arguments(model: PreTrainedModel) -> set[str]:
    """What the base model's forward takes by name."""
    return set(inspect.signature(model.base_model.forward).parameters)


def _checked(model: PreTrainedModel, batch: Batch) -> dict[str, Tensor]:
    main = model.main_input_name
    values: Mapping[str, Any] = batch if isinstance(batch, Mapping) else {main: batch}
    if main not in values:
        raise UndenseError(f"a calibration batch needs the key {main!r}; got {sorted(values)}")
    taken = (arguments(model) | {"input_ids", "attention_mask"}) - set(UNUSED)
    tensors = {
        key: value.detach().cpu()
        for key, value in values.items()
        if key in taken and isinstance(value, Tensor)
    }
    if main == "pixel_values":
        return tensors | {main: _pixels(model, values[main])}
    tensors[main] = _ids(model, values[main], main)
    if two_towers(model):
        tensors["decoder_input_ids"] = _target(model, values, tensors[main])
    for ids, mask in MASKS.items():
        if ids in tensors:
            given = tensors.get(mask, torch.ones_like(tensors[ids]))
            tensors[mask] = given.reshape(tensors[ids].shape)
    return tensors


def _ids(model: PreTrainedModel, ids: object, key: str) -> Tensor:
    if not isinstance(ids, Tensor) or ids.is_floating_point():
        kind = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise UndenseError(f"calibration must be integer tensors of token ids; {key} is {kind}")
    ids = ids.detach().cpu().long()
    ids = ids[None] if ids.ndim == 1 else ids
    vocabulary = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        outside = int(ids.max()) if int(ids.max()) >= vocabulary else int(ids.min())
        raise UndenseError(
            f"calibration holds token {outside} but the model knows {vocabulary} tokens;"
            " use this model's own tokenizer"
        )
    limit = positions(model)
    if limit is not None and ids.shape[1] > limit:
        raise UndenseError(
            f"a calibration sequence has {ids.shape[1]} tokens but the model has {limit}"
            " positions; cut it"
        )
    return ids


def positions(model: PreTrainedModel) -> int | None:
    """The longest sequence that the model has positions for; None where there is no limit."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and family(model.config.model_type).shifted:
        limit -= (model.config.pad_token_id or 0) + 1
    return limit


def _target(model: PreTrainedModel, values: Mapping[str, Any], source: Tensor) -> Tensor:
    """What the decoder reads."""
    if (given := values.get("decoder_input_ids")) is not None:
        return _ids(model, given, "decoder_input_ids")
    pad = model.config.pad_token_id or 0
    if isinstance(labels := values.get("labels"), Tensor) and model.can_generate():
        labels = labels.detach().cpu()
        return _shifted(model, _ids(model, labels.masked_fill(labels == -100, pad), "labels"))
    if model.can_generate():
        raise UndenseError(
            f"a calibration batch for {type(model).__name__} needs 'decoder_input_ids' or 'labels'"
            " beside 'input_ids': what its decoder shall see cannot be guessed from the source"
        )
    return _shifted(model, source)


def _shifted(model: PreTrainedModel, ids: Tensor) -> Tensor:
    start = model.config.decoder_start_token_id
    start = model.config.pad_token_id if start is None else start
    return torch.cat([torch.full_like(ids[:, :1], start or 0), ids[:, :-1]], 1)


def _pixels(model: PreTrainedModel, pixels: object) -> Tensor:
    channels, size = (model.config.num_channels, model.config.image_size)
    height, width = (size, size) if isinstance(size, int) else size
    if not isinstance(pixels, Tensor) or not pixels.is_floating_point():
        kind = pixels.dtype if isinstance(pixels, Tensor) else type(pixels).__name__
        raise UndenseError(f"calibration must be floating-point pixel_values; got {kind}")
    if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (channels, height, width):
        raise UndenseError(
            f"pixel_values are {tuple(pixels.shape)} but the model takes (rows, {channels},"
            f" {height}, {width}); use this model's own image processor"
        )
    return pixels.detach().cpu()
