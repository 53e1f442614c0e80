"""Model classes of converted models: `Undense<Class>`, which builds the stock model and puts the
FFNs in that its config records.

The classes are made when first asked for, from the stock ones, and are attributes of this module,
so that they can be imported and pickled: `UndenseGPT2LMHeadModel`.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import undense.ffn  # noqa: F401  (registers the components that configs name)
from undense.convert import strict
from undense.convert.attention import install_mixers
from undense.convert.configs import NAME, config_class, recorded, recorded_mixers
from undense.convert.families import FAMILIES, family
from undense.convert.swap import install
from undense.errors import UndenseError
from undense.ops.derived import rebuild


class UndenseModel:
    """Mixed in before a stock class: builds that, exchanges its FFNs, and loads strictly."""

    stock: ClassVar[type[PreTrainedModel]]

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)  # type: ignore[call-arg]  (the stock class)
        install(cast(PreTrainedModel, self), recorded(config))
        install_mixers(cast(PreTrainedModel, self), recorded_mixers(config))

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """As in transformers, whose arguments it takes, but missing, extra and mis-shaped keys
        raise `UndenseError` by name, and so does a damaged file."""
        load = super().from_pretrained  # type: ignore[misc]  (the stock class)
        loaded = strict.load(load, pretrained_model_name_or_path, *args, **kwargs)
        # transformers gives buffers that are not saved new memory, and leaves it as it is
        rebuild(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded


def model_class(stock: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The class of a converted `stock`, which must be one of transformers' own."""
    name = NAME + stock.__name__
    if getattr(transformers, stock.__name__, None) is not stock:
        raise UndenseError(
            f"{stock.__name__} is not one of transformers' own classes, so a converted one could"
            " not be built again from a saved folder; convert the stock model"
        )
    if name not in globals():
        kind = family(cast(type[PreTrainedConfig], stock.config_class).model_type)
        body = {
            "__module__": __name__,
            "__doc__": f"`{stock.__name__}` with the FFNs that its config records.",
            "config_class": config_class(kind),
            "stock": stock,
        }
        globals()[name] = type(name, (UndenseModel, stock), body)
        _rename_as(stock, name, kind.model_type)
    return globals()[name]


def stock_class(model: PreTrainedModel) -> type[PreTrainedModel]:
    """The class that `model` has, or had before it was converted."""
    return model.stock if isinstance(model, UndenseModel) else type(model)


def register() -> None:
    """Make every Auto class know the converted models of the families that it knows."""
    for auto in auto_classes():
        for kind in FAMILIES.values():
            stock = stock_of(auto, kind.model_type)
            if stock is not None:
                auto.register(config_class(kind), model_class(stock), exist_ok=True)


def auto_classes() -> list[Any]:
    """transformers' Auto classes of models."""
    found = [
        value
        for name, value in vars(modeling_auto).items()
        if name.startswith("AutoModel") and isinstance(value, type)
    ]
    return [auto for auto in found if getattr(auto, "_model_mapping", None) is not None]


def stock_of(auto: Any, model_type: str) -> type[PreTrainedModel] | None:
    """The stock class that an Auto class builds for a type; None where it knows none."""
    config = CONFIG_MAPPING[model_type]
    if config not in auto._model_mapping:
        return None
    found = auto._model_mapping[config]
    stock = found[0] if isinstance(found, tuple) else found
    # transformers lists one class under the type of another, which it cannot be built from
    return stock if stock.config_class is config else None


def _rename_as(stock: type[PreTrainedModel], name: str, model_type: str) -> None:
    """Give the class `name` the key renames that transformers makes for `stock`: it looks them up
    by class, applies them to a stock backbone inside our class, and would not to ours."""
    renames = get_checkpoint_conversion_mapping(stock.__name__)
    if renames is None:
        renames = get_checkpoint_conversion_mapping(model_type)
    if renames is not None:
        register_checkpoint_conversion_mapping(name, renames, overwrite=True)


def __getattr__(name: str) -> Any:
    """A class that was not asked for yet, so that a pickle finds it by name."""
    stock = getattr(transformers, name.removeprefix(NAME), None) if name.startswith(NAME) else None
    if isinstance(stock, type) and issubclass(stock, PreTrainedModel):
        return model_class(stock)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
