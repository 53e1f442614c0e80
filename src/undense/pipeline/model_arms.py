"""Whole models for a speed measurement: built from a config, random weights, one an arm.

What is not an FFN is shared: all arms run the very same attention, norms and embeddings, and only
the FFNs take memory of their own.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from undense.contract import FFNComponent, abstract_cost, build
from undense.convert.configs import recorded
from undense.convert.fresh import fresh_
from undense.convert.sites import find_components, find_sites
from undense.errors import UndenseError
from undense.ffn.presets import resolve
from undense.ffn.shares import dense_config
from undense.measure.ffn_arms import quiet
from undense.pipeline.load import load_config, require_causal

DENSE = "dense"
NO_FFN = "none"
ACTIVATIONS = ("activation_function", "hidden_act", "hidden_activation")
# The same function as one kernel instead of seven: a needlessly slow activation would flatter
# whatever replaces the dense FFN.
ONE_KERNEL = {"gelu_new": "gelu_pytorch_tanh", "gelu_fast": "gelu_pytorch_tanh"}


def timed_config(name: str) -> PreTrainedConfig:
    """The config of a causal language model, its activation in one kernel and its dropouts off:
    they would be drawn in the dense FFNs and not in those that replace them.

    Raises `UndenseError` for what is no causal model, and for one that is converted already.
    """
    config: Any = copy.deepcopy(load_config(name))
    require_causal(config, name)
    if recorded(config):
        raise UndenseError(
            f"model {name!r} is converted already; give its dense source, and its FFNs as --arms"
        )
    for field in ACTIVATIONS:
        value = getattr(config, field, None)
        if value in ONE_KERNEL:
            setattr(config, field, ONE_KERNEL[value])
    for field, value in vars(config).items():
        if isinstance(value, float) and ("dropout" in field or field.endswith("pdrop")):
            setattr(config, field, 0.0)
    return config


def dense_model(config: PreTrainedConfig, dtype: torch.dtype, seed: int) -> PreTrainedModel:
    """The model with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config)).to(dtype)
    model.loss_type = "ForCausalLM"
    return model.eval()


def with_ffn(dense: PreTrainedModel, spec: str, seed: int) -> PreTrainedModel:
    """`dense` with fresh FFNs of `spec`, all else shared with it. Raises `UndenseError` for a spec
    that has no size here."""
    kept = {id(tensor): tensor for tensor in (*dense.parameters(), *dense.buffers())}
    arm = copy.deepcopy(dense, dict(kept))
    torch.manual_seed(seed)
    replace_(arm, spec)
    return arm


def replace_(model: PreTrainedModel, spec: str) -> None:
    """Fresh FFNs in place of the dense ones, in the model's type, without dropout and balance."""
    sites = find_sites(model)
    fresh_(model, quiet(resolve(spec, sites[0].shape)))
    for component in find_components(model).values():
        component.to(model.dtype).train(model.training)


def flops_share(dense: PreTrainedModel, spec: str, *, training: bool) -> float:
    """FLOPs of one FFN of `spec` over those of the dense one, the way back included or not."""
    shape = find_sites(dense)[0].shape

    def flops(config: Any) -> int:
        cost = abstract_cost(shape.dim, config)
        return cost.forward + (cost.backward if training else 0)

    return flops(quiet(resolve(spec, shape))) / flops(dense_config(shape))


def require_sizes(config: PreTrainedConfig, specs: tuple[str, ...]) -> None:
    """Raises `UndenseError` for a spec that has no size at this model's width, without memory."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
        shape = find_sites(model)[0].shape
        for spec in specs:
            build(shape.dim, resolve(spec, shape))


def ffn_of(model: PreTrainedModel) -> FFNComponent:
    """The first component of a converted model."""
    return next(iter(find_components(model).values()))
