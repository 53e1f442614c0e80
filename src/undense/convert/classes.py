"""Model and config classes of converted models: `Undense<Class>`, of type `undense_<type>`.

A converted model needs a type of its own: saved under the stock type it would be rebuilt with
dense FFNs of random weights. The classes are made when first asked for, from the stock ones, and
are attributes of this module (so they can be imported and pickled): `UndenseGPT2LMHeadModel`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self, cast

import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import undense.ffn  # noqa: F401  (registers the components that configs name)
from undense.convert import strict
from undense.convert.families import FAMILIES, PREFIX, Family, family
from undense.convert.swap import install
from undense.errors import UndenseError

NAME = "Undense"
FORMAT = 1

# Auto class -> where transformers lists its stock classes by model type.
AUTO: dict[str, str] = {
    "AutoModel": "MODEL_MAPPING_NAMES",
    "AutoModelForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "AutoModelForSequenceClassification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForTokenClassification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForQuestionAnswering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
}


class UndenseModel:
    """Mixed in before a stock class: builds that, puts the FFNs of `config.undense` in, and loads
    strictly."""

    stock: ClassVar[type[PreTrainedModel]]

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)  # type: ignore[call-arg]  (the stock class)
        install(cast(PreTrainedModel, self), recorded(config))

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, whose arguments it takes, but missing, extra and mis-shaped keys
        raise `UndenseError` by name, and so does a damaged file."""
        return strict.load(super().from_pretrained, *args, **kwargs)  # type: ignore[misc]


def recorded(config: PreTrainedConfig) -> dict[str, dict[str, Any]]:
    """The FFN configs that a model config records, by their path in the base model."""
    record = getattr(config, "undense", None)
    if record is None:
        return {}
    if record.get("format") != FORMAT or not isinstance(record.get("ffns"), dict):
        raise UndenseError(
            f"config.json: 'undense' is of format {record.get('format')!r}, but this version of"
            f" undense reads format {FORMAT}; install the version that wrote the folder"
        )
    return record["ffns"]


def config_class(kind: Family) -> type[PreTrainedConfig]:
    """The config class of converted models of this family."""
    stock = CONFIG_MAPPING[kind.model_type]
    name = NAME + stock.__name__
    if name not in globals():
        plan = stock.base_model_tp_plan or {}
        ffn = kind.place.replace("{}", "*")
        body = {
            "__module__": __name__,
            "__doc__": f"`{stock.__name__}` with the FFNs recorded in `undense`.",
            "model_type": PREFIX + kind.model_type,
            "undense": None,
            # a plan for projections that are no longer there would be refused
            "base_model_tp_plan": {k: v for k, v in plan.items() if not k.startswith(ffn)},
        }
        globals()[name] = type(name, (stock,), body)
    return globals()[name]


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


def convert_config(config: PreTrainedConfig, ffns: dict[str, Any]) -> PreTrainedConfig:
    """A copy of `config` that records `ffns`; without any, a copy of the stock class."""
    kind = family(config.model_type)
    cls = config_class(kind) if ffns else CONFIG_MAPPING[kind.model_type]
    values = config.to_dict()
    values.pop("undense", None)
    copy = _like(config, cls)
    copy.__dict__.pop("undense", None)
    if ffns:
        copy.undense = {"format": FORMAT, "ffns": ffns}
    return copy


def register_configs() -> None:
    """Make AutoConfig know the converted types."""
    for kind in FAMILIES.values():
        AutoConfig.register(PREFIX + kind.model_type, config_class(kind), exist_ok=True)


def register_models() -> None:
    """Make the Auto classes know every head that a family has."""
    for auto, table in AUTO.items():
        names = getattr(modeling_auto, table)
        for kind in FAMILIES.values():
            if kind.model_type in names:
                stock = getattr(transformers, names[kind.model_type])
                cls = model_class(stock)
                getattr(modeling_auto, auto).register(config_class(kind), cls, exist_ok=True)


def __getattr__(name: str) -> Any:
    """Classes that were not asked for yet, so that a pickle finds them by name."""
    stock = getattr(transformers, name.removeprefix(NAME), None) if name.startswith(NAME) else None
    if isinstance(stock, type) and issubclass(stock, PreTrainedModel):
        return model_class(stock)
    if isinstance(stock, type) and issubclass(stock, PreTrainedConfig):
        return config_class(family(stock.model_type))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
