"""Work of the fused attention kernels: softmax(scale * Q K^T + mask) V and its backward.

Every query is counted against every key: what causality or a mask hides is computed by the plain
kernels and skipped by the good ones, and the full price is comparable among all of them. Shapes:
query (…, heads, queries, dim), key (…, keys, dim), value (…, keys, dim of value); fewer key heads
than query heads (grouped queries) change nothing, as each query head reads a whole key head.
"""

from __future__ import annotations

from undense.cost import Work, per_element
from undense.measure.call import Call, Formula

# The mask is an argument under one of these names.
_MASKS = ("attn_mask", "attn_bias")


def _masked(call: Call) -> bool:
    return any(call.get(name) is not None for name in _MASKS)


def _scores(call: Call) -> tuple[int, int, int]:
    """Number of scores, width of a key, width of a value."""
    query, key, value = call["query"], call["key"], call["value"]
    return query.numel() // query.shape[-1] * key.shape[-2], query.shape[-1], value.shape[-1]


def forward(call: Call) -> Work:
    """Q K^T and P V, the scale and the softmax, the mask's addition where there is a mask."""
    scores, key_width, value_width = _scores(call)
    macs = scores * (key_width + value_width)
    pointwise = scores * (per_element("attention_score") + _masked(call))
    return Work(2 * macs + pointwise, macs + scores)


def backward(call: Call) -> Work:
    """Q K^T again (the kernels keep no scores), then the products for dV, dP, dQ and dK."""
    scores, key_width, value_width = _scores(call)
    macs = scores * (3 * key_width + 2 * value_width)
    pointwise = scores * (per_element("attention_score_backward") + _masked(call))
    query = call["query"]
    outputs = query.numel() // query.shape[-1] * value_width
    pointwise += outputs * per_element("attention_output_backward")
    return Work(2 * macs + pointwise, macs + scores)


FORMULAS: dict[str, Formula] = {
    f"aten._scaled_dot_product_{kernel}{ending}": formula
    for kernel in (
        "flash_attention_for_cpu",
        "flash_attention",
        "efficient_attention",
        "cudnn_attention",
        "fused_attention_overrideable",
    )
    for ending, formula in (("", forward), ("_backward", backward))
}
