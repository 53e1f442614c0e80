"""`fresh_`: the FFNs of an untrained model replaced by untrained components."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from undense.contract import FFNComponent, build
from undense.convert.convert import chosen
from undense.convert.settle import settle_
from undense.convert.swap import put
from undense.ffn.presets import FFNSpec, resolve

PROBES = 256  # rows
CLOSE = 0.01
TURNS = 10  # at most


def fresh_(model: PreTrainedModel, ffn: FFNSpec) -> dict[str, nn.Module]:
    """Replace every dense FFN of `model` in place by a component with its own random start.

    For training from scratch, where `convert_` starts from trained weights. A component starts as
    loud as the dense FFN that it replaces: louder, it would drown what the embeddings say. `ffn`: a
    spec ("ultra-25", inline JSON, a JSON file) or a config. Draws from the global random state.
    Returns the dense FFNs, untrained too, by the paths where they stood. Raises `UndenseError` as
    `convert_` does.
    """
    dense = {}
    for site in chosen(model, None, None):
        new = build(site.shape.dim, resolve(ffn, site.shape, untrained=True))
        if not site.on_meta:
            _as_loud_as(site.module, new, site.shape.dim)
        dense[site.name] = put(model, site.name, new)
    settle_(model)
    return dense


@torch.no_grad()
def _as_loud_as(dense: nn.Module, new: FFNComponent, dim: int) -> None:
    """Scale what `new` puts out to the RMS of the dense FFN's output, on inputs of RMS 1."""
    rows = torch.randn(1, PROBES, dim, generator=torch.Generator().manual_seed(0))
    weight = next(dense.parameters())
    rows = rows.to(weight.device, weight.dtype)
    dense_was, new_was = (dense.training, new.training)
    dense.eval()
    new.eval()
    wanted = dense(rows).float().square().mean()
    for _ in range(TURNS):  # one is enough unless steps read their own output
        found = new(rows).float().square().mean()
        if wanted == 0 or found == 0 or abs(found / wanted - 1) < CLOSE:
            break
        for parameter in new.outputs():
            parameter.mul_((wanted / found).sqrt())
    dense.train(dense_was)
    new.train(new_was)
