"""The dense FFNs that a conversion took out, kept beside the model until `revert_` wants them.

They lie in a plain dictionary, so they are in no state dict, no `parameters()` and no file.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from transformers import PreTrainedModel

_ATTRIBUTE = "_undense_originals"


def keep(model: PreTrainedModel, dense: Mapping[str, nn.Module]) -> None:
    """Remember dense FFNs by their path in `model`, beside those of earlier conversions."""
    model.__dict__.setdefault(_ATTRIBUTE, {}).update(dense)


def kept(model: PreTrainedModel) -> Mapping[str, nn.Module]:
    """The dense FFNs remembered, by path."""
    return model.__dict__.get(_ATTRIBUTE, {})


def forget(model: PreTrainedModel) -> None:
    """Let the memory go."""
    model.__dict__.pop(_ATTRIBUTE, None)
