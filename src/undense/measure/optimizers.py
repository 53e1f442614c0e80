"""Work of optimizers: the fused steps, and the operations on lists of tensors of the others.

An operation on a list (`_foreach_…`) costs what the same operation costs on each of its tensors.
"""

from __future__ import annotations

from undense.cost import Work, per_element
from undense.measure.call import Call, Formula, tensors

# Sums, signs and comparisons are no multiply-add, products and elementary functions are one.
_SUMS = """
abs ceil floor round trunc frac sign neg maximum minimum clamp_max clamp_min max
"""
_FUNCTIONS = """
acos asin atan cos cosh erf erfc exp expm1 lgamma log log10 log1p log2 reciprocal sin sinh sqrt tan
tanh mul div
"""

_COSTLIER: dict[str, int] = {
    "pow": per_element("power"),
    "rsqrt": per_element("rsqrt"),
    "sigmoid": per_element("sigmoid"),
    "lerp": 3,
    "norm": per_element("vector_norm"),
    "powsum": per_element("vector_norm"),
}


def _numbers(call: Call) -> int:
    return sum(x.numel() for x in call["self"])


def _complex(call: Call) -> bool:
    return any(x.is_complex() for x in tensors(call["self"]))


def listed(flops: int, macs: int) -> Formula:
    """`flops` and `macs` for each number of every tensor of the list."""

    def formula(call: Call) -> Work | None:
        return None if _complex(call) else Work(flops * _numbers(call), macs * _numbers(call))

    return formula


def added(call: Call) -> Work | None:
    """The sums, and the products with `alpha` where it is not 1."""
    scaled = call.get("alpha") not in (None, 1)
    width = 2 if _complex(call) else 1
    return Work((1 + scaled) * width * _numbers(call), scaled * width * _numbers(call))


def product_added(call: Call) -> Work | None:
    """self + value * a * b, or a / b; a list of values is multiplied with whatever it holds."""
    if _complex(call):
        return None
    products = 1 + (call.get("value") != 1)
    return Work((1 + products) * _numbers(call), products * _numbers(call))


def adam(*, decoupled: bool) -> Formula:
    """m, v, and the step; weight decay g + w * p (decoupled: p * (1 - a * w)); the larger v."""

    def formula(call: Call) -> Work:
        decay = (1 if decoupled else 2) * bool(call["weight_decay"])
        per_number = per_element("adam") + decay + call["amsgrad"] + call["maximize"]
        per_number += call["grad_scale"] is not None
        return Work(per_number * _numbers(call), per_number * _numbers(call) // 2)

    return formula


def sgd(call: Call) -> Work:
    """g + w * p; buffer = momentum * buffer + (1 - d) * g; Nesterov's g + momentum * buffer."""
    per_number = 2 + 2 * bool(call["weight_decay"]) + call["maximize"]
    per_number += call["grad_scale"] is not None
    if call["momentum"]:
        per_number += 3 * (not call["is_first_step"]) + 2 * call["nesterov"]
    return Work(per_number * _numbers(call), per_number * _numbers(call) // 2)


def unscale(call: Call) -> Work:
    """Of mixed precision: is each number finite, and the product with the scale."""
    numbers = sum(x.numel() for x in call["self"])
    return Work(2 * numbers, numbers)


FORMULAS: dict[str, Formula] = {
    **{f"aten._foreach_{name}": listed(1, 0) for name in _SUMS.split()},
    **{f"aten._foreach_{name}": listed(1, 1) for name in _FUNCTIONS.split()},
    **{f"aten._foreach_{name}": listed(flops, 1) for name, flops in _COSTLIER.items()},
    "aten._foreach_add": added,
    "aten._foreach_sub": added,
    "aten._foreach_addcmul": product_added,
    "aten._foreach_addcdiv": product_added,
    "aten._fused_adam": adam(decoupled=False),
    "aten._fused_adamw": adam(decoupled=True),
    "aten._fused_sgd": sgd,
    "aten._amp_foreach_non_finite_check_and_unscale": unscale,
}
