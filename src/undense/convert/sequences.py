"""The guard of models whose FFNs read earlier tokens: no call that would hide those from them.

A component that is not token-local must see whole sequences. With a KV cache the host passes the
new tokens alone, and with padding on the left the first token follows padding; the FFN could tell
neither. Both are refused here, where the host's arguments say what the FFN cannot know.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from undense.contract import FFNComponent
from undense.errors import UndenseError


def guard_sequences(model: PreTrainedModel, ffn: FFNComponent) -> None:
    """Refuse cached decoding and left padding in `model`, and vouch for the rest to `ffn`."""
    if ffn.config.token_local:
        return
    for part in ffn.modules():
        if isinstance(part, FFNComponent):
            part.whole_sequences = True
    base = model.base_model
    if not getattr(base, "_undense_guards_sequences", False):
        base.register_forward_pre_hook(_require_whole, with_kwargs=True)
        setattr(base, "_undense_guards_sequences", True)  # noqa: B010


def _require_whole(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    components = [part for part in module.modules() if isinstance(part, FFNComponent)]
    if all(part.config.token_local for part in components):
        return  # put back since
    cache = kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise UndenseError(
            "this model's FFNs read the previous token's features (token_feedback), which a KV"
            " cache does not hold: use generate(use_cache=False), or the components' own"
            " step(x, state)"
        )
    mask = kwargs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.dim() == 2 and not mask[:, 0].all():
        raise UndenseError(
            "padding on the left would reach the first tokens through FFNs that read the previous"
            " token's features (token_feedback); pad on the right, or run the sequences one by one"
        )
