"""Making a model's class and config say which FFNs and mixers it holds: saving follows."""

from __future__ import annotations

from typing import cast

from transformers import PreTrainedModel

from undense.contract import FFNComponent
from undense.convert.attention import find_mixers
from undense.convert.classes import model_class, stock_class
from undense.convert.configs import recording
from undense.convert.families import family
from undense.convert.parts import leftover
from undense.convert.sites import base_key, find_components
from undense.errors import UndenseError


def settle_(model: PreTrainedModel) -> None:
    """With components in `model`: the `Undense` class, and a config that records them. Without:
    the stock class and config.

    The config is copied, not changed: other models may have been built from the same object. Raises
    `UndenseError`, having changed nothing, where a saved folder could not be built again.
    """
    ffns = {}
    for name, component in find_components(model).items():
        key = base_key(model, name)
        _require_rebuildable(model, name, key, component)
        ffns[key] = component.config.to_dict()
    mixers = {
        base_key(model, name): site.mixer.config.to_dict()
        for name, site in find_mixers(model).items()
    }
    stock = stock_class(model)
    cls = model_class(stock) if ffns or mixers else stock
    base = cast(PreTrainedModel, model.base_model)
    old = (model.config, base.config)
    new = recording(model.config, ffns, mixers)
    for module in model.modules():
        for attribute, value in vars(module).items():
            if any(value is config for config in old):
                module.__dict__[attribute] = new
    model.__class__ = cls
    if base is not model:  # converted by itself before; the head's class now speaks for both
        base.__class__ = stock_class(base)


def _require_rebuildable(
    model: PreTrainedModel, name: str, key: str, component: FFNComponent
) -> None:
    kind = family(model.config.model_type)
    if kind.layer(key) is None:
        places = " or ".join(seat.replace("{}", "*") for seat in kind.seats)
        raise UndenseError(
            f"the {component.component!r} component at {name!r} stands where {kind.model_type} has"
            f" no FFN ({places}), so a saved folder could not be built"
            " again; put it there itself, not inside another module, or save the FFNs alone"
        )
    rest = leftover(model.get_submodule(kind.owner(name)), kind)
    if rest is not None:
        raise UndenseError(
            f"the {component.component!r} component at {name!r} replaces the whole FFN, but {rest}"
        )
    if component.dim != model.config.hidden_size:
        raise UndenseError(
            f"the {component.component!r} component at {name!r} has dim={component.dim} but the"
            f" model's residual stream has {model.config.hidden_size} features"
        )
