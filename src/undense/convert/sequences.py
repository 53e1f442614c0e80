"""Models whose FFNs read earlier tokens: what those tokens left is kept in the model's own cache.

With a KV cache the host passes the new tokens alone, and with padding on the left the first token
follows padding; the FFN could tell neither. Around every call in evaluation mode, a stack of layers
that holds such FFNs therefore hands each of them its state and the attention mask, and keeps the
states as one more layer of the cache: they are reordered with the beams, repeated and dropped with
the rows, copied and passed on with it. What cannot be kept that way is refused.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache, EncoderDecoderCache

from undense.contract import FFNComponent, Past
from undense.errors import UndenseError
from undense.models.cache import FFNStates


def keep_past(stack: nn.Module, ffn: FFNComponent) -> None:
    """Let `stack`, the module that takes the cache and the mask, serve `ffn` where it needs it."""
    if ffn.config.token_local or getattr(stack, "_undense_keeps_past", False):
        return
    stack.register_forward_pre_hook(_hand_over, with_kwargs=True)
    stack.register_forward_hook(_take_back, with_kwargs=True, always_call=True)
    setattr(stack, "_undense_keeps_past", True)  # noqa: B010


def _hand_over(stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    readers = _readers(stack)
    if not readers:
        return  # put back since
    given = inspect.signature(stack.forward).bind_partial(*args, **kwargs).arguments
    given |= given.pop("kwargs", {})
    cache = _cache(given.get("past_key_values"))
    states = None if cache is None else _states(cache)
    if cache is not None and any(layer.is_compileable for layer in cache.layers):
        raise UndenseError(
            "a static cache holds keys and values alone, not what the FFNs that read the previous"
            " token's features (token_feedback) keep; leave cache_implementation at its default"
        )
    if cache is not None and states is None and cache.get_seq_length() > 0:
        raise UndenseError(
            "past_key_values holds tokens, but not what they left for the FFNs that read the"
            " previous token's features (token_feedback); pass the cache that this model returned,"
            " or begin without one"
        )
    mask = _mask(given.get("attention_mask"))
    if stack.training:
        _require_whole(mask, states)
        return  # layers may run again in the backward pass, when the past is gone
    before = [None] * len(readers) if states is None or states.state is None else states.state
    if len(before) != len(readers):
        raise UndenseError(
            f"past_key_values holds the states of {len(before)} FFNs that read the previous token's"
            f" features, this model has {len(readers)}; it is from another model"
        )
    for part, state in zip(readers, before, strict=True):
        part.past = Past(state=state, mask=mask)


def _take_back(stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    readers = _readers(stack)
    after = [part.past.state for part in readers if part.past is not None]
    for part in readers:
        part.past = None
    cache = _returned(out, kwargs)
    if out is None or cache is None or not after:
        return  # it failed, or nobody will go on from here
    states = _states(cache)
    if states is None:
        states = FFNStates()
        cache.layers.append(states)
    kept = tuple(state for state in after if state is not None)
    assert len(kept) == len(readers), "an FFN was not called"
    states.advance(kept, cache.get_seq_length() - states.seen)


def _readers(stack: nn.Module) -> list[FFNComponent]:
    """The components in `stack` that read earlier tokens, inside composites too."""
    parts = (part for part in stack.modules() if isinstance(part, FFNComponent))
    return [part for part in parts if part.config.mixes_tokens]


def _mask(mask: Any) -> Tensor | None:
    """(batch, tokens) bool; None where it hides nothing."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise UndenseError(
            f"attention_mask {shape}: FFNs that read the previous token's features (token_feedback)"
            " must know which tokens are padding; pass a mask (batch, tokens)"
        )
    return None if bool(mask.all()) else mask.bool()


def _require_whole(mask: Tensor | None, states: FFNStates | None) -> None:
    if states is not None and states.seen > 0:
        raise UndenseError(
            "a filled cache in training mode: FFNs that read the previous token's features"
            " (token_feedback) train on whole sequences; call model.eval() to go on from a cache"
        )
    if mask is not None and not mask[:, 0].all():
        raise UndenseError(
            "padding on the left in training mode would reach the first tokens through FFNs that"
            " read the previous token's features (token_feedback); pad on the right"
        )


def _cache(given: Any) -> Cache | None:
    """The one that grows with the tokens of this stack."""
    if isinstance(given, EncoderDecoderCache):
        given = given.self_attention_cache
    return given if isinstance(given, Cache) else None


def _returned(out: Any, kwargs: dict[str, Any]) -> Cache | None:
    if isinstance(out, tuple):
        return next((found for value in out if (found := _cache(value)) is not None), None)
    kept = _cache(getattr(out, "past_key_values", None))
    return _cache(kwargs.get("past_key_values")) if kept is None else kept


def _states(cache: Cache) -> FFNStates | None:
    return next((layer for layer in cache.layers if isinstance(layer, FFNStates)), None)
