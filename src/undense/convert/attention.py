"""Sequence mixers in place of the self-attention of a decoder: structure, cache, saving.

A mixer starts from random weights: what attention has learned is not carried over. It keeps its
state in the model's own cache, in the layer's place, so `generate` works as before, beam search
included; layers that keep their attention keep their keys and values beside it (a hybrid).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

import undense.mixers  # noqa: F401  (registers the mixers that configs name)
from undense import mixing
from undense.convert import originals
from undense.convert.families import Family, family
from undense.convert.sites import base_key, full_name
from undense.convert.targets import Targets, select
from undense.errors import UndenseError
from undense.mixing import MixerConfig, SequenceMixer
from undense.models.cache import StateLayer

Spec = str | mixing.Config | Mapping[str, Any]


@final
class MixerSite(nn.Module):
    """A mixer where a decoder's layer `layer` expects its attention; returns (output, None)."""

    def __init__(self, mixer: SequenceMixer, layer: int) -> None:
        super().__init__()
        self.mixer = mixer
        self.layer = layer

    def forward(
        self,
        hidden_states: Tensor,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,  # what only attention needs: rotary angles, positions, flags
    ) -> tuple[Tensor, None]:
        time = hidden_states.shape[1]
        cache = None if past_key_values is None else _place(past_key_values, self.layer)
        mask = _real(attention_mask, time, 0 if cache is None else cache.seen)
        y, state = self.mixer(hidden_states, None if cache is None else cache.state, mask)
        if cache is not None:
            cache.advance(state, time)
        return y, None


def convert_mixers_(
    model: PreTrainedModel,
    mixer: Spec,
    *,
    targets: Targets | None = None,
    exclude: Targets | None = None,
    seed: int = 0,
    keep_dense: bool = True,
) -> dict[str, mixing.Config]:
    """Put fresh mixers in the place of self-attentions of `model`, and make its class and config
    say so; returns their configs by path.

    `mixer`: a registered name (it then gets as many heads as the model has), a config, or one as
    JSON values. `targets`, `exclude`: as for `convert_`. Raises `UndenseError`, having changed
    nothing, for a mixer that is not causal, a family whose attention is not known, and a model
    without attention.
    """
    from undense.convert.settle import settle_

    new = plan_mixers(model, mixer, targets=targets, exclude=exclude)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = {name: _built(model, name, config) for name, config in new.items()}
    old = {name: model.get_submodule(name) for name in new}
    for name, site in built.items():
        model.set_submodule(name, site)
    try:
        settle_(model)
    except UndenseError:
        for name, attention in old.items():
            model.set_submodule(name, attention)
        raise
    if keep_dense:
        originals.keep(model, old)
    return new


def plan_mixers(
    model: PreTrainedModel,
    mixer: Spec,
    *,
    targets: Targets | None = None,
    exclude: Targets | None = None,
) -> dict[str, mixing.Config]:
    """What `convert_mixers_` would put where, by path; nothing is changed."""
    from undense.convert.classes import model_class, stock_class

    model_class(stock_class(model))  # refuses a class that no saved folder could name
    kind = _with_attention(model)
    config = _config(mixer, model.config.num_attention_heads)
    layers = {}
    for name, module in model.named_modules():
        layer = kind.attention_layer(base_key(model, name))
        if layer is not None and type(module).__module__.startswith("transformers."):
            layers[name] = layer
    if not layers:
        raise UndenseError(f"{type(model).__name__} has no attention left that a mixer can replace")
    names = select(layers, targets, exclude)
    with torch.device("meta"):
        mixing.build(model.config.hidden_size, config)  # refuses a width that it cannot have
    return dict.fromkeys(names, config)


def find_mixers(model: nn.Module) -> dict[str, MixerSite]:
    """Every mixer that stands for an attention, by its path."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MixerSite)}


def install_mixers(model: PreTrainedModel, mixers: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace attentions of a freshly built `model`. `mixers`: configs by path in the base model.

    Raises `UndenseError` for a path where the model has no attention.
    """
    kind = _with_attention(model) if mixers else None
    for key, values in mixers.items():
        name = full_name(model, key)
        assert kind is not None
        if kind.attention_layer(key) is None or name not in dict(model.named_modules()):
            raise UndenseError(
                f"the config records a mixer at {key!r}, where this {type(model).__name__} has no"
                " attention"
            )
        if not isinstance(model.get_submodule(name), MixerSite):  # else its backbone had it
            site = _built(model, name, mixing.config_from_dict(values))
            model.set_submodule(name, site)


def _built(model: PreTrainedModel, name: str, config: mixing.Config) -> MixerSite:
    """In the dtype, on the device and in the mode of the attention at `name`."""
    old = model.get_submodule(name)
    like = next(old.parameters())
    layer = family(model.config.model_type).attention_layer(base_key(model, name))
    assert layer is not None
    site = MixerSite(mixing.build(model.config.hidden_size, config), layer)
    for module in site.modules():
        module.__dict__["_is_hf_initialized"] = True  # it initialises itself
    if like.is_meta:
        return site.to(dtype=like.dtype).train(old.training)
    return site.to(device=like.device, dtype=like.dtype).train(old.training)


def _with_attention(model: PreTrainedModel) -> Family:
    kind = family(model.config.model_type)
    if kind.attention is None:
        raise UndenseError(
            f"model type {kind.model_type!r}: no mixer can stand for its attention yet; supported:"
            " gpt2 and the layouts of Llama (llama, mistral, qwen2, qwen3)"
        )
    return kind


def _config(spec: Spec, heads: int) -> mixing.Config:
    """The config of a spec; refused by name where it would see the future."""
    if isinstance(spec, str):
        config = mixing.default(spec, heads=heads)
    elif isinstance(spec, mixing.Config):
        config = spec
    else:
        config = mixing.config_from_dict(spec)
    assert isinstance(config, MixerConfig)
    if not config.causal:
        raise UndenseError(
            f"mixer {config.component!r} has causal=False, so each token would see those after it;"
            " a causal decoder needs causal=True"
        )
    return config


def _place(cache: Cache, layer: int) -> StateLayer:
    """The layer's place in a cache; it holds a state instead of keys and values."""
    inner = getattr(cache, "self_attention_cache", cache)
    while len(inner.layers) <= layer:
        inner.layers.append(DynamicLayer())
    found = inner.layers[layer]
    if not isinstance(found, StateLayer):
        # What a cache of fixed size makes of its other layers' masks hangs on every layer's word.
        compileable, found = found.is_compileable, StateLayer()
        found.is_compileable = compileable
        inner.layers[layer] = found
    return found


def _real(mask: Any, time: int, seen: int) -> Tensor | None:
    """Which of the last `time` tokens, after `seen`, are no padding, (batch, time) bool; None: all.

    Of a mask of queries and keys (batch, 1, queries, keys), the diagonal: a real token sees itself,
    whatever window it has, and padding is seen by nobody. A cache of fixed size has keys for tokens
    still to come, behind it; one of a window has fewer keys than there were tokens.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dim() not in (2, 4):
        raise UndenseError(
            f"a mixer cannot read an attention mask of type {type(mask).__name__}; load the model"
            " with attn_implementation='sdpa' or 'eager'"
        )
    if mask.dim() == 2:
        real = mask[:, -time:].bool()
    else:
        end = min(seen + time, mask.shape[3])
        own = mask[:, 0, -time:, end - time : end].diagonal(dim1=1, dim2=2)
        real = own if own.dtype == torch.bool else own == 0
    if not torch.compiler.is_compiling() and not real.is_meta and bool(real.all()):
        return None
    return real
