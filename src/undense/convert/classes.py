"""Model classes of converted models: `Undense<Class>`, which builds the stock model and puts the
FFNs in that its config records.

The classes are made when first asked for, from the stock ones, and are attributes of this module,
so that they can be imported and pickled: `UndenseGPT2LMHeadModel`.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

import undense.ffn  # noqa: F401  (registers the components that configs name)
from undense.convert import strict
from undense.convert.configs import NAME, config_class, recorded
from undense.convert.families import FAMILIES, family
from undense.convert.swap import install
from undense.errors import UndenseError
from undense.ops.derived import rebuild

# Auto class -> where transformers lists its stock classes by model type.
AUTO: dict[str, str] = {
    "AutoModel": "MODEL_MAPPING_NAMES",
    "AutoModelForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "AutoModelForSequenceClassification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForTokenClassification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForQuestionAnswering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
}


class UndenseModel:
    """Mixed in before a stock class: builds that, exchanges its FFNs, and loads strictly."""

    stock: ClassVar[type[PreTrainedModel]]

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)  # type: ignore[call-arg]  (the stock class)
        install(cast(PreTrainedModel, self), recorded(config))

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
    return globals()[name]


def stock_class(model: PreTrainedModel) -> type[PreTrainedModel]:
    """The class that `model` has, or had before it was converted."""
    return model.stock if isinstance(model, UndenseModel) else type(model)


def register() -> None:
    """Make the Auto classes know every head that a family has."""
    for auto, table in AUTO.items():
        names = getattr(modeling_auto, table)
        for kind in FAMILIES.values():
            if kind.model_type in names:
                stock = getattr(transformers, names[kind.model_type])
                cls = model_class(stock)
                getattr(modeling_auto, auto).register(config_class(kind), cls, exist_ok=True)


def __getattr__(name: str) -> Any:
    """A class that was not asked for yet, so that a pickle finds it by name."""
    stock = getattr(transformers, name.removeprefix(NAME), None) if name.startswith(NAME) else None
    if isinstance(stock, type) and issubclass(stock, PreTrainedModel):
        return model_class(stock)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
