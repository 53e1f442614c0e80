"""Work of the normalisations, forward and backward; fewer gradients asked for are less work.

In multiply-adds a normalisation is 4 a number.
"""

from __future__ import annotations

from collections.abc import Sequence

from undense.cost import Work, per_element
from undense.measure.call import Call, Formula

_MACS = 4


def _forward(call: Call, per_number: int) -> Work:
    """Statistics and scaling, then the product with `weight` and the sum with `bias` if given."""
    numbers = call["input"].numel()
    affine = (call["weight"] is not None) + (call.get("bias") is not None)
    return Work((per_number + affine) * numbers, _MACS * numbers)


def _backward(call: Call, asked: Sequence[bool], costs: Sequence[int]) -> Work:
    """`costs` for the gradients of input, weight (and bias); g * weight only where there is one."""
    per_number = sum(cost for want, cost in zip(asked, costs, strict=True) if want)
    if asked[0] and call["weight"] is None:
        per_number -= 1
    numbers = call["input"].numel()
    return Work(per_number * numbers, _MACS * numbers)


def _centred_costs() -> list[int]:
    return [per_element(f"layer_norm_backward_{of}") for of in ("input", "weight", "bias")]


def centred(call: Call) -> Work:
    """LayerNorm, GroupNorm."""
    return _forward(call, per_element("layer_norm"))


def centred_backward(call: Call) -> Work:
    return _backward(call, call["output_mask"], _centred_costs())


def batch(call: Call) -> Work:
    """In training like LayerNorm; with given statistics only subtract and multiply."""
    return _forward(call, per_element("layer_norm") if call["training"] else 2)


def batch_given(call: Call) -> Work:
    return _forward(call, 2)


def batch_backward(call: Call) -> Work:
    """With given statistics the input's gradient is g * weight / std."""
    costs = _centred_costs()
    if not call["train"]:
        costs[0] = 2
    return _backward(call, call["output_mask"], costs)


def root_mean_square(call: Call) -> Work:
    return _forward(call, per_element("rms_norm"))


def root_mean_square_backward(call: Call) -> Work:
    costs = [per_element(f"rms_norm_backward_{of}") for of in ("input", "weight")]
    return _backward(call, call["output_mask"], costs)


def weight(call: Call) -> Work:
    """weight_norm: square and sum, then the product with g / norm."""
    numbers = call["v"].numel()
    return Work((per_element("vector_norm") + 1) * numbers, _MACS * numbers)


def weight_backward(call: Call) -> Work:
    """Multiply with v and sum; a * grad - b * v."""
    numbers = call["saved_v"].numel()
    return Work(5 * numbers, _MACS * numbers)


FORMULAS: dict[str, Formula] = {
    "aten._weight_norm_interface": weight,
    "aten._weight_norm_interface_backward": weight_backward,
    "aten.native_layer_norm": centred,
    "aten.native_layer_norm_backward": centred_backward,
    "aten.native_group_norm": centred,
    "aten.native_group_norm_backward": centred_backward,
    "aten.native_batch_norm": batch,
    "aten._native_batch_norm_legit": batch,
    "aten._native_batch_norm_legit_functional": batch,
    "aten._native_batch_norm_legit_no_training": batch_given,
    "aten.native_batch_norm_backward": batch_backward,
    "aten._fused_rms_norm": root_mean_square,
    "aten._fused_rms_norm_backward": root_mean_square_backward,
}
