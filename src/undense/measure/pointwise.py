"""Work of operations on each number by itself: arithmetic, comparisons, elementary functions.

The output's numbers (after broadcasting) times a constant. In multiply-adds a product or a function
is 1 and a sum or a comparison 0. Complex numbers: see `_COMPLEX`; a function that is not listed
there is uncounted on complex numbers, rather than counted wrongly.
"""

from __future__ import annotations

from torch import Tensor

from undense.cost import Work, per_element
from undense.measure.call import Call, Formula

# One FLOP a number, and no multiply-add: sums, signs, comparisons.
_SUMS = """
abs neg sign sgn floor ceil round trunc frac maximum minimum fmax fmin eq ne lt le gt ge
isnan isinf isneginf isposinf heaviside angle _conj_physical signbit nextafter
"""

# One FLOP and one multiply-add a number: products and elementary functions.
_FUNCTIONS = """
reciprocal sqrt exp exp2 expm1 log log2 log10 log1p sin cos tan sinh cosh
tanh asin acos atan asinh acosh atanh atan2 erf erfc erfinv fmod remainder floor_divide
deg2rad rad2deg lgamma digamma polygamma i0 igamma igammac special_erfcx special_i0e special_i1
special_i1e special_ndtri special_log_ndtr special_zeta
"""

# FLOPs a number where it is more than one; one multiply-add.
_COSTLIER: dict[str, int] = {
    "pow": per_element("power"),
    "rsqrt": per_element("rsqrt"),
    "xlogy": 2,
    "hypot": 4,  # x * x + y * y, sqrt
    "lerp": 3,  # self + weight * (end - self)
    "native_dropout": per_element("dropout"),
    "native_dropout_backward": per_element("dropout"),
    "_masked_scale": 1,
    "nan_to_num": 3,  # is it not a number, is it either infinity
    "ldexp": 2,
    "sinc": 3,  # sin(pi * x) / (pi * x), the product once
    "logit": 3,  # log(x / (1 - x))
    "logaddexp": 7,  # maximum, subtract, abs, negate, exp, log1p, add
    "logaddexp2": 7,
    "linalg_cross": 3,
    "special_xlog1py": 2,
    "special_entr": 3,  # -x * log(x)
    "polar": 4,  # r * cos, r * sin
}

# FLOPs a number of the output where an operand or the output is complex, and multiply-adds.
_COMPLEX: dict[str, Work] = {
    "neg": Work(2),
    "_conj_physical": Work(1),
    "eq": Work(2),
    "ne": Work(2),
    "abs": Work(4, 3),  # sqrt(x * x + y * y)
    "angle": Work(1, 1),
    "sgn": Work(6, 5),
    "exp": Work(5, 5),  # exp, cos, sin, two products
    "polar": Work(4, 4),
    "reciprocal": Work(6, 4),  # conj(z) / (x * x + y * y)
    "log": Work(6, 5),  # log of the length, angle
    "lerp": Work(6, 2),  # the weight is real
}


def _numbers(call: Call) -> int:
    return call.result.numel()


def involves_complex(call: Call) -> bool:
    scalars = any(isinstance(value, complex) for value in (*call.args, *call.kwargs.values()))
    return scalars or call.result.is_complex() or any(x.is_complex() for x in call.tensors())


def each(name: str, flops: int, macs: int) -> Formula:
    """`flops` and `macs` for every number of the output; for complex ones what `_COMPLEX` says."""

    def formula(call: Call) -> Work | None:
        per = Work(flops, macs)
        if involves_complex(call):
            if name not in _COMPLEX:
                return None
            per = _COMPLEX[name]
        return Work(per.flops * _numbers(call), per.macs * _numbers(call))

    return formula


def _is_complex(value: object) -> bool:
    return value.is_complex() if isinstance(value, Tensor) else isinstance(value, complex)


def mul(call: Call) -> Work:
    """Complex times complex 6, complex times real 2."""
    sides = _is_complex(call["self"]) + _is_complex(call["other"])
    flops, macs = ((1, 1), (2, 2), (6, 4))[sides]
    return Work(flops * _numbers(call), macs * _numbers(call))


def div(call: Call) -> Work:
    """By a complex number 11: times its conjugate, over its squared length."""
    flops, macs = (1, 1)
    if _is_complex(call["other"]):
        flops, macs = (11, 8)
    elif _is_complex(call["self"]):
        flops, macs = (2, 2)
    return Work(flops * _numbers(call), macs * _numbers(call))


def add(call: Call) -> Work:
    """The sum, and the product with `alpha` where it is not 1."""
    width = 2 if involves_complex(call) else 1
    scaled = call.get("alpha") not in (None, 1)
    return Work(width * (1 + scaled) * _numbers(call), scaled * width * _numbers(call))


def addcmul(call: Call) -> Work | None:
    """self + value * a * b, the product with `value` where it is not 1; of complex numbers only
    the plain self + a * b has a formula."""
    value = call["value"]
    products = 1 + (value != 1)
    if not involves_complex(call):
        return Work((1 + products) * _numbers(call), products * _numbers(call))
    if products == 1 and all(x.is_complex() for x in call.tensors()):
        return Work(8 * _numbers(call), 4 * _numbers(call))
    return None


def addcdiv(call: Call) -> Work | None:
    """self + value * a / b, the product with `value` where it is not 1."""
    if involves_complex(call):
        return None
    products = 1 + (call["value"] != 1)
    return Work((1 + products) * _numbers(call), products * _numbers(call))


def clamp(call: Call) -> Work:
    """One comparison for each bound that is given."""
    bounds = (call.get("min") is not None) + (call.get("max") is not None)
    return Work(bounds * _numbers(call))


FORMULAS: dict[str, Formula] = {
    **{f"aten.{name}": each(name, 1, 0) for name in _SUMS.split()},
    **{f"aten.{name}": each(name, 1, 1) for name in _FUNCTIONS.split()},
    **{f"aten.{name}": each(name, flops, 1) for name, flops in _COSTLIER.items()},
    "aten.mul": mul,
    "aten.div": div,
    "aten.add": add,
    "aten.sub": add,
    "aten.rsub": add,
    "aten.addcmul": addcmul,
    "aten.addcdiv": addcdiv,
    "aten.clamp": clamp,
    "aten.clamp_min": each("clamp_min", 1, 0),
    "aten.clamp_max": each("clamp_max", 1, 0),
}
