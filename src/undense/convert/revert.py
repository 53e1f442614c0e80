"""`revert_`: the dense FFNs, the stock class and the stock config put back."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from undense.contract import FFNComponent
from undense.convert import originals, strict
from undense.convert.attention import find_mixers
from undense.convert.classes import stock_class
from undense.convert.settle import settle_
from undense.convert.sites import base_key, find_components, find_sites
from undense.convert.swap import put
from undense.errors import UndenseError


def revert_(model: PreTrainedModel, source: str | Path | None = None) -> None:
    """Undo every conversion of `model` in place. Everything but the FFNs stays as it now is.

    The dense FFNs are those that `convert_` kept, or, with `source` (a folder or hub name of the
    dense model), that model's. They take the dtype, device and mode of what they replace. Raises
    `UndenseError`, having changed nothing, where there are none.
    """
    components: dict[str, nn.Module] = {**find_components(model), **find_mixers(model)}
    dense = originals.kept(model) if source is None else _dense_of(model, source)
    missing = [name for name in components if name not in dense]
    if missing:
        raise UndenseError(
            f"the originals of {', '.join(missing)} are not in memory (the model was loaded from"
            " disk, or converted with keep_dense=False); pass"
            " revert_(model, source=<folder or hub name of the dense model>)"
            if source is None
            else f"{source} has no original at {', '.join(missing)}; is it the model before"
            " conversion?"
        )
    for name, component in components.items():
        original = _like(dense[name], component, model)
        if isinstance(component, FFNComponent):
            put(model, name, original)
        else:
            model.set_submodule(name, original)
    settle_(model)
    originals.forget(model)


def _dense_of(model: PreTrainedModel, source: str | Path) -> dict[str, nn.Module]:
    """The FFNs of a dense model on disk, by their path in `model`."""
    stock = stock_class(model)
    loaded = strict.load(stock.from_pretrained, source, dtype=model.dtype)
    assert isinstance(loaded, PreTrainedModel)
    here = {base_key(model, name): name for name in find_components(model)}
    width = model.config.hidden_size
    if loaded.config.hidden_size != width:
        raise UndenseError(
            f"{source} has hidden_size={loaded.config.hidden_size} but this model has {width}; it"
            " is not the model before conversion"
        )
    found = {here[site.key]: site.module for site in find_sites(loaded) if site.key in here}
    return found | {name: loaded.get_submodule(name) for name in find_mixers(model)}


def _like(dense: nn.Module, component: nn.Module, model: PreTrainedModel) -> nn.Module:
    """In the dtype, on the device and in the mode of the component that it replaces."""
    floating = (p for p in component.parameters() if p.is_floating_point())
    reference = next(floating, None)
    device, dtype = (model.device, model.dtype)
    if reference is not None:
        device, dtype = (reference.device, reference.dtype)
    return dense.to(device=device, dtype=dtype).train(component.training)
