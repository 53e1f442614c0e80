"""Counting a whole model of any family on the meta device: prefill, decoding, a training step.

The model is built without memory and run as it would be; the sizes of the cache are read off the
cache itself. Dropout is off throughout: it is no part of what a model costs to use.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    DynamicCache,
    PreTrainedConfig,
    masking_utils,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
)

from undense.errors import UndenseError
from undense.measure.count import REMAINDER, Count, ModuleCount
from undense.measure.decoder import Workload
from undense.measure.flops import count_flops

_CAUSAL = ("LMHeadModel", "ForCausalLM")
_WITH_LABELS = (*_CAUSAL, "ForMaskedLM", "ForConditionalGeneration")


def empty(config: PreTrainedConfig) -> Any:
    """The model of a config on the meta device: of the class that the config names, else with the
    head of its family (next token, sequence to sequence, masked token, image class), else bare."""
    config = copy.deepcopy(config)
    named = getattr(transformers, (config.architectures or [""])[0], None)
    kind: Any = AutoModel
    if named is not None and getattr(named, "config_class", None) is type(config):
        kind = named
    else:
        autos = [auto for auto, known in _heads(config) if type(config) in known]
        kind = [*autos, AutoModel][0]
    causal = kind is AutoModelForCausalLM or kind.__name__.endswith(_CAUSAL)
    if causal:
        # With a padding token transformers looks for it in the values of the ids; there are none.
        config.pad_token_id = None
    with torch.device("meta"):
        build: Any = getattr(kind, "_from_config" if kind is named else "from_config")
        return build(config).eval()


def _heads(config: PreTrainedConfig) -> list[tuple[Any, Any]]:
    """The classes to ask for a head, the likeliest first: encoders have a causal one as well."""
    causal = (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING)
    others = [
        (AutoModelForMaskedLM, MODEL_FOR_MASKED_LM_MAPPING),
        (AutoModelForImageClassification, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING),
    ]
    if config.is_encoder_decoder:
        return [(AutoModelForSeq2SeqLM, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING)]
    return [causal, *others] if getattr(config, "is_decoder", False) else [*others, causal]


def decodes(model: Any) -> bool:
    """Whether it writes token after token with a cache."""
    return type(model).__name__.endswith(_CAUSAL)


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A count, and the numbers that the cache holds after it (None for a model without one)."""

    count: Count
    cached: int | None


def count_workload(model: Any, work: Workload) -> Counted:
    """FLOPs of the new tokens of `work`, and of the way back where it has labels.

    Models without a language model's loss go back from their outputs. Raises `UndenseError` for a
    model that looks at values, which an empty one does not have.
    """
    inputs = _inputs(model, work.batch, work.tokens)
    cache = None
    if decodes(model):
        # Without a cache transformers looks for packed sequences in the values of the positions;
        # filling a cache costs no FLOP.
        cache = DynamicCache(config=model.config)
        inputs |= {"use_cache": True, "past_key_values": cache}
    if work.labels and type(model).__name__.endswith(_WITH_LABELS):
        inputs["labels"] = inputs["input_ids"]
        if decodes(model):
            model.loss_type = "ForCausalLM"
    try:
        with torch.set_grad_enabled(work.labels), _nothing_padded():
            if work.past:
                past = _inputs(model, work.batch, work.past)
                model(**past, use_cache=True, past_key_values=cache)
            count = count_flops(lambda: model(**inputs), model=model, backward=work.labels)
    except (NotImplementedError, RuntimeError) as error:
        raise UndenseError(
            f"{type(model).__name__} cannot be counted without memory: {error}; count the loaded"
            " model with undense.count_flops"
        ) from error
    held = None
    if cache is not None:
        values = [value for layer in cache.layers for value in vars(layer).values()]
        held = sum(value.numel() for value in values if _held(value))
    return Counted(count=count, cached=held)


@contextmanager
def _nothing_padded() -> Iterator[None]:
    """Let transformers take a mask without values for one of ones.

    It looks whether a mask hides anything, and BART makes one itself where none is given.
    """
    looks = masking_utils.fast_all
    masking_utils.fast_all = lambda mask: True if mask.is_meta else looks(mask)
    try:
        yield
    finally:
        masking_utils.fast_all = looks


def _held(value: object) -> bool:
    """Whether an attribute of a cache's layer holds keys or values: (batch, heads, tokens, dim)."""
    return isinstance(value, Tensor) and value.dim() == 4


def _inputs(model: Any, batch: int, tokens: int) -> dict[str, Any]:
    if model.main_input_name == "pixel_values":
        sizes = model.config.image_size
        sides = (sizes, sizes) if isinstance(sizes, int) else tuple(sizes)
        shape = (batch, model.config.num_channels, *sides)
        return {"pixel_values": torch.zeros(shape, device="meta")}
    ids = torch.zeros(batch, tokens, dtype=torch.long, device="meta")
    if model.config.is_encoder_decoder:
        return {"input_ids": ids, "decoder_input_ids": ids}
    return {"input_ids": ids}


@dataclass(kw_only=True)
class Place:
    """FLOPs at one kind of place: equal layers are one, their number standing in the path as *."""

    path: str
    calls: int = 0
    forward: int = 0
    backward: int = 0


def places(tree: ModuleCount) -> list[Place]:
    """The leaves of a count's tree with layer numbers replaced by *, in the order of the calls."""
    found: dict[str, Place] = {}
    _collect(tree, "", found)
    return list(found.values())


def _collect(node: ModuleCount, path: str, found: dict[str, Place]) -> None:
    if not node.parts:
        place = found.setdefault(path, Place(path=path))
        place.calls += node.calls
        place.forward += node.forward
        place.backward += node.backward
        return
    for part in node.parts:
        pieces = ["*" if piece.isdigit() else piece for piece in part.name.split(".")]
        inner = [] if part.name == REMAINDER else pieces
        _collect(part, ".".join([*filter(None, [path]), *inner]) or REMAINDER, found)
