"""`fresh_`: the FFNs of an untrained model replaced by untrained components."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from undense.contract import build
from undense.convert.convert import chosen
from undense.convert.settle import settle_
from undense.convert.swap import put
from undense.ffn.presets import FFNSpec, resolve


def fresh_(model: PreTrainedModel, ffn: FFNSpec) -> dict[str, nn.Module]:
    """Replace every dense FFN of `model` in place by a component with its own random start.

    For training from scratch, where `convert_` starts from trained weights. `ffn`: a spec
    ("ultra-25", inline JSON, a JSON file) or a config. Draws from the global random state. Returns
    the dense FFNs, untrained too, by the paths where they stood. Raises `UndenseError` as
    `convert_` does.
    """
    dense = {}
    for site in chosen(model, None, None):
        new = build(site.shape.dim, resolve(ffn, site.shape))
        dense[site.name] = put(model, site.name, new)
    settle_(model)
    return dense
