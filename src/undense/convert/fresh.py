"""`fresh_`: the FFNs of an untrained model replaced by untrained components."""

from __future__ import annotations

from transformers import PreTrainedModel

from undense.contract import build
from undense.convert.convert import chosen
from undense.convert.settle import settle_
from undense.convert.swap import put
from undense.ffn.presets import FFNSpec, resolve


def fresh_(model: PreTrainedModel, ffn: FFNSpec) -> None:
    """Replace every dense FFN of `model` in place by a component with its own random start.

    For training from scratch, where `convert_` starts from trained weights. `ffn`: a spec
    ("ultra-25", inline JSON, a JSON file) or a config. Draws from the global random state. Raises
    `UndenseError` as `convert_` does.
    """
    for site in chosen(model, None, None):
        put(model, site.name, build(site.shape.dim, resolve(ffn, site.shape)))
    settle_(model)
