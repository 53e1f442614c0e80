"""Exchanging one FFN module of a model, and building the FFNs that a config records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from undense.contract import FFNComponent, build, config_from_dict
from undense.convert.sequences import guard_sequences
from undense.convert.sites import find_sites
from undense.errors import UndenseError


def put(model: PreTrainedModel, name: str, ffn: nn.Module) -> nn.Module:
    """Put `ffn` at the path `name`; returns what stood there."""
    before = model.get_submodule(name)
    model.set_submodule(name, ffn)
    if isinstance(ffn, FFNComponent):
        keep_from_initialisation(ffn)
        guard_sequences(model, ffn)
    return before


def install(model: PreTrainedModel, ffns: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace dense FFNs of a freshly built `model` by new components, on the current device.

    `ffns`: component configs by path in the base model. Raises `UndenseError` for a path where the
    model has no dense FFN.
    """
    sites = {site.key: site for site in find_sites(model)} if ffns else {}
    for key, values in ffns.items():
        if key not in sites:
            raise UndenseError(
                f"the config records an FFN at {key!r}, where this {type(model).__name__} has none;"
                f" it has {', '.join(sites)}"
            )
        site = sites[key]
        put(model, site.name, build(site.shape.dim, config_from_dict(values)))


def keep_from_initialisation(ffn: FFNComponent) -> None:
    """Tell transformers that a component initialises itself.

    Its `_init_weights` would otherwise overwrite every norm and linear map in it whenever the host
    is initialised again.
    """
    for module in ffn.modules():
        module.__dict__["_is_hf_initialized"] = True
