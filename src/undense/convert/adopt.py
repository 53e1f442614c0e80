"""The guard on transformers: no model with our components is saved, or loaded, as a dense one.

A stock model whose FFNs were exchanged by hand (`layer.mlp = UltraEfficientSparseFFN(d=768)`) would
be saved under its stock type, and a reload would build dense FFNs of random weights with nothing
but a printed report. So `PreTrainedModel.save_pretrained`, which Trainer and `push_to_hub` use too,
first gives such a model the class that rebuilds it, or refuses; and `from_pretrained` of a stock
class refuses a converted folder.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from undense.convert.sites import find_components
from undense.errors import UndenseError

logger = logging.getLogger(__name__)


def adopt_(model: PreTrainedModel) -> None:
    """Make `model` one that can be saved and built again, if it holds components at all.

    Classes of a model type of their own are left alone: they build what they hold. Raises
    `UndenseError` with the remedy for a model that could not be built again.
    """
    from undense.convert.attention import find_mixers
    from undense.convert.classes import UndenseModel  # it imports every model family
    from undense.convert.settle import settle_

    converted = isinstance(model, UndenseModel)
    found = {**find_components(model), **find_mixers(model)}
    if not found and not converted:
        return
    if not converted:
        if not _is_stock_type(model.config.model_type):
            return
        logger.warning(
            "%s holds %d undense FFNs or mixers: it is saved as such, `import undense` loads it",
            type(model).__name__,
            len(found),
        )
    try:
        settle_(model)
    except UndenseError as error:
        raise UndenseError(
            f"this model was not saved, because loading it would give dense FFNs of random weights:"
            f" {error}. The FFNs alone can be saved with undense.save_ffns(model, folder)"
        ) from error


def guard() -> None:
    """Wrap `PreTrainedModel.save_pretrained` and `.from_pretrained`, once."""
    if hasattr(PreTrainedModel.save_pretrained, "__undense__"):
        return
    save = PreTrainedModel.save_pretrained
    load = PreTrainedModel.from_pretrained.__func__

    @functools.wraps(save)
    def save_pretrained(self: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        adopt_(self)
        return save(self, *args, **kwargs)

    @functools.wraps(load)
    def from_pretrained(cls: type[PreTrainedModel], *args: Any, **kwargs: Any) -> Any:
        loaded = load(cls, *args, **kwargs)
        _require_converted(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded

    setattr(save_pretrained, "__undense__", True)  # noqa: B010
    setattr(PreTrainedModel, "save_pretrained", save_pretrained)  # noqa: B010
    setattr(PreTrainedModel, "from_pretrained", classmethod(from_pretrained))  # noqa: B010


def _is_stock_type(model_type: str) -> bool:
    """Whether an Auto class would build one of transformers' own models for this type."""
    known = model_type in CONFIG_MAPPING
    return known and CONFIG_MAPPING[model_type].__module__.startswith("transformers.")


def _require_converted(model: PreTrainedModel) -> None:
    from undense.convert.classes import UndenseModel

    if getattr(model.config, "undense", None) and not isinstance(model, UndenseModel):
        name = type(model).__name__
        raise UndenseError(
            f"{model.name_or_path} holds a converted model, and {name} would give it dense FFNs of"
            f" random weights; load it with an Auto class, such as AutoModelForCausalLM"
        )
