"""Config classes of converted models: the stock one, of type `undense_<type>`, recording the FFNs.

A converted model needs a type of its own: saved under the stock type it would be rebuilt with
dense FFNs of random weights. The classes are made when first asked for and are attributes of this
module, so that they can be imported and pickled: `UndenseGPT2Config`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from undense.convert.families import FAMILIES, PREFIX, Family, family
from undense.errors import UndenseError

NAME = "Undense"
FORMAT = 1  # of a model with FFNs; with mixers in it one more, which an older version refuses


def config_class(kind: Family) -> type[PreTrainedConfig]:
    """The config class of converted models of this family."""
    stock = CONFIG_MAPPING[kind.model_type]
    name = NAME + stock.__name__
    if name not in globals():
        plan = stock.base_model_tp_plan or {}
        body = {
            "__module__": __name__,
            "__doc__": f"`{stock.__name__}` that records in `undense` which FFNs the model holds.",
            "model_type": PREFIX + kind.model_type,
            "undense": None,
            # transformers complains of a plan for projections that are no longer there
            "base_model_tp_plan": {k: v for k, v in plan.items() if not k.startswith(kind.paths)},
        }
        globals()[name] = type(name, (stock,), body)
    return globals()[name]


def recorded(config: PreTrainedConfig) -> dict[str, dict[str, Any]]:
    """The FFN configs that a model config records, by their path in the base model.

    Raises `UndenseError` for a record of another format.
    """
    return _record(config).get("ffns", {})


def recorded_mixers(config: PreTrainedConfig) -> dict[str, dict[str, Any]]:
    """The same of the mixers that stand for an attention."""
    return _record(config).get("mixers", {})


def _record(config: PreTrainedConfig) -> Mapping[str, Any]:
    record = getattr(config, "undense", None)
    if record is None:
        return {}
    formats = {FORMAT, FORMAT + 1}
    if not isinstance(record, Mapping) or record.get("format") not in formats:
        record = {"of another format": record}
    if "ffns" not in record:
        raise UndenseError(
            f"config.json: 'undense' must be {{'format': {FORMAT}, 'ffns': …}}, got"
            f" {str(record)[:80]}; a later version of undense may have written it"
        )
    return record


def recording(
    config: PreTrainedConfig,
    ffns: Mapping[str, Mapping[str, Any]],
    mixers: Mapping[str, Mapping[str, Any]] | None = None,
) -> PreTrainedConfig:
    """A copy of `config` that records both; without any, of the stock config class."""
    kind = family(config.model_type)
    changed = copy.deepcopy(config)
    # The fields are the same, and a constructor would drop what users added.
    changed.__class__ = config_class(kind) if ffns or mixers else CONFIG_MAPPING[kind.model_type]
    changed.__dict__.pop("undense", None)
    if mixers:
        record = {"format": FORMAT + 1, "ffns": dict(ffns), "mixers": dict(mixers)}
        changed.__dict__["undense"] = record
    elif ffns:
        changed.__dict__["undense"] = {"format": FORMAT, "ffns": dict(ffns)}
    return changed


def register() -> None:
    """Make AutoConfig know the converted types."""
    for kind in FAMILIES.values():
        AutoConfig.register(PREFIX + kind.model_type, config_class(kind), exist_ok=True)


def __getattr__(name: str) -> Any:
    """A class that was not asked for yet, so that a pickle finds it by name."""
    stock = getattr(transformers, name.removeprefix(NAME), None) if name.startswith(NAME) else None
    if isinstance(stock, type) and issubclass(stock, PreTrainedConfig):
        return config_class(family(stock.model_type))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
