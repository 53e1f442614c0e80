"""Work of activation functions and their gradients: a constant for each number of the output.

One multiply-add each. What PyTorch composes (softsign, ReLU6, …) is counted by its parts.
"""

from __future__ import annotations

from undense.cost import Work, per_element
from undense.measure.call import Call, Formula
from undense.measure.pointwise import each

# The way forward, and what is done with g on the way back; written out where the shared table in
# `undense.cost` has no entry, as no component computes it.
_FLOPS: dict[str, int] = {
    "sigmoid": per_element("sigmoid"),
    "sigmoid_backward": per_element("sigmoid_backward"),
    "tanh_backward": per_element("tanh_backward"),
    "relu": per_element("relu"),
    "threshold": per_element("relu"),
    "threshold_backward": per_element("threshold_backward"),
    "silu": per_element("silu"),
    "silu_backward": per_element("silu_backward"),
    "softplus": per_element("softplus"),
    "softplus_backward": per_element("softplus_backward"),
    "leaky_relu": 2,  # compare, multiply
    "leaky_relu_backward": 2,
    "_prelu_kernel": 2,
    "_prelu_kernel_backward": 3,  # compare; g * w and g * x
    "rrelu_with_noise": 2,
    "elu": 4,  # compare, a * (exp(x) - 1)
    "elu_backward": 3,  # compare; g * (y + a), or with the input for y: g * a * exp(x)
    "celu": 4,
    "hardtanh": 2,
    "hardtanh_backward": 2,
    "hardsigmoid": 4,  # clamp(x + 3, 0, 6) / 6
    "hardsigmoid_backward": 3,
    "hardswish": 5,
    "hardswish_backward": 5,  # two comparisons, g * (x / 3 + 1 / 2)
    "hardshrink": 2,
    "hardshrink_backward": 2,
    "softshrink": 3,  # two comparisons, subtract
    "softshrink_backward": 2,
    "mish": 4,  # x * tanh(log1p(exp(x)))
    # t = tanh(log1p(exp(x))), s = sigmoid(x): g * (t + x * s * (1 - t * t))
    "mish_backward": 3 + per_element("sigmoid") + 6,
    "log_sigmoid_forward": 6,  # min(x, 0) - log1p(z), z = exp(-abs(x))
    "log_sigmoid_backward": 6,  # compare; g * (a - b * (z / (1 + z)))
    "glu_backward": per_element("sigmoid") + 4,  # g * s; that * a * (1 - s): two numbers
    "logit_backward": 3,  # g / (x * (1 - x))
}


def gelu(call: Call) -> Work:
    name = "gelu" if call["approximate"] == "none" else "gelu_tanh"
    return Work(per_element(name) * call.result.numel(), call.result.numel())


def gelu_backward(call: Call) -> Work:
    name = "gelu_backward" if call["approximate"] == "none" else "gelu_tanh_backward"
    return Work(per_element(name) * call.result.numel(), call.result.numel())


def glu(call: Call) -> Work:
    """Half of the input times the sigmoid of the other half."""
    numbers = call.result.numel()
    return Work((per_element("sigmoid") + 1) * numbers, 2 * numbers)


def glu_backward(call: Call) -> Work:
    """One pass for each number of the output's gradient, of which the input has twice as many."""
    numbers = call["grad_output"].numel()
    return Work(_FLOPS["glu_backward"] * numbers, numbers)


FORMULAS: dict[str, Formula] = {
    **{f"aten.{name}": each(name, flops, 1) for name, flops in _FLOPS.items()},
    "aten.gelu": gelu,
    "aten.gelu_backward": gelu_backward,
    "aten.glu": glu,
    "aten.glu_backward": glu_backward,
}
