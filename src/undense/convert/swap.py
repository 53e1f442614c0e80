"""Exchanging one FFN module of a model, and building the FFNs that a config records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from undense.contract import FFNComponent, build, config_from_dict
from undense.convert.families import family
from undense.convert.parts import seat, standing
from undense.convert.sequences import keep_past
from undense.convert.sites import base_key, find_components, find_sites
from undense.errors import UndenseError


def put(model: PreTrainedModel, name: str, ffn: nn.Module) -> nn.Module:
    """Make `ffn`, a component or a dense FFN that was taken out, the FFN at the path `name`;
    returns the one that stood there."""
    kind = family(model.config.model_type)
    owner = model.get_submodule(kind.owner(name))
    before = standing(owner, kind)
    if kind.chain:
        seat(owner, kind, ffn)
    else:
        model.set_submodule(name, ffn)
    if isinstance(ffn, FFNComponent):
        keep_from_initialisation(ffn)
        tower = kind.tower(base_key(model, name))
        keep_past(model.base_model.get_submodule(tower), ffn)
    return before


def install(model: PreTrainedModel, ffns: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace dense FFNs of a freshly built `model` by new components, on the current device.

    `ffns`: component configs by path in the base model. Raises `UndenseError` for a path where the
    model has no dense FFN, but not for one in a stack of layers that this class leaves out.
    """
    sites = {site.key: site for site in find_sites(model)} if ffns else {}
    # Some of transformers' heads ask AutoModel for their backbone, which then has its FFNs.
    there = {base_key(model, name) for name in find_components(model)}
    towers = {name for name, _ in cast(nn.Module, model.base_model).named_children()}
    for key, values in ffns.items():
        tower = family(model.config.model_type).tower(key)
        # An encoder alone has no use for what its decoder held.
        if key in there or (tower and tower not in towers):
            continue
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
