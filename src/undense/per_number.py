"""The one table of what an operation costs for each number, that components and counter share.

A test derives every entry by running the arithmetic in the comment on numbers that count.
"""

from __future__ import annotations

# FLOPs per number of the output (of the input, for reductions), in the order of the arithmetic.
PER_ELEMENT: dict[str, int] = {
    "elementwise": 1,
    "gelu": 5,  # x * 0.5 * (1 + erf(x / sqrt 2))
    "gelu_tanh": 9,  # 0.5 * x * (1 + tanh(c * (x + 0.044715 * x * x * x)))
    "gelu_backward": 11,  # g * (Phi(x) + x * phi(x)), phi(x) = a * exp(-x * x / 2)
    "gelu_tanh_backward": 18,  # g * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3a * x * x))
    "sigmoid": 4,  # 1 / (1 + exp(-x))
    "sigmoid_backward": 3,  # g * (s * (1 - s))
    "silu": 5,  # x * sigmoid(x)
    "silu_backward": 9,  # g * s * (1 + x * (1 - s)), s = sigmoid(x)
    "relu": 1,
    "threshold_backward": 1,
    "tanh": 1,
    "tanh_backward": 3,  # g * (1 - t * t)
    "bounded": 5,  # z * (1 / sqrt(1 + z * z))
    "bounded_backward": 7,  # r * r * r * g, r = 1 / sqrt(1 + z * z)
    # x * (1/2 + u * (p0 + v * (p1 + v * p2))), u = x * (1 / sqrt(s * s + x * x)), v = u * u
    "chebyshev_gelu": 13,
    "chebyshev_gelu_backward": 15,  # the same with one coefficient more, and g for the last x
    "chebyshev_silu": 13,
    "chebyshev_silu_backward": 15,
    "softmax": 5,  # maximum, subtract, exp, sum, divide
    "softmax_backward": 4,  # g * y, sum, subtract, multiply
    "log_softmax": 6,  # maximum, subtract, exp, sum; subtract both again (the log is one a row)
    "log_softmax_backward": 4,  # sum; exp, multiply, subtract
    "layer_norm": 6,  # mean, subtract, square, sum; subtract, multiply
    "layer_norm_affine": 2,  # weight, bias
    # input: g * w, sum; * x, sum; a * gw + b * x + c; weight: (x - mean) / std * g, sum; bias: sum
    "layer_norm_backward": 13,
    "power": 2,  # x ** 3 = x * x * x; other exponents are counted alike
    "layer_norm_backward_input": 8,  # the three shares of layer_norm_backward
    "layer_norm_backward_weight": 4,
    "layer_norm_backward_bias": 1,
    "rms_norm": 3,  # square, sum; multiply
    "rms_norm_weight": 1,
    "rms_norm_backward_input": 6,  # g * w; * x, sum; a * gw - b * x
    "rms_norm_backward_weight": 3,  # x / rms, * g, sum
    "attention_score": 6,  # scale, then softmax
    "attention_score_backward": 6,  # scale, p = exp(s - logsumexp); p * (dp - d), scale
    "attention_output_backward": 2,  # d = sum(g * y)
    "variance": 4,  # mean, subtract, square, sum
    "logsumexp": 4,  # maximum, subtract, exp, sum
    "vector_norm": 2,  # square, sum
    "dropout": 2,  # mask, scale
    "rsqrt": 2,  # sqrt, divide
    "softplus": 4,  # log1p(exp(b * x)) / b
    "softplus_backward": 5,  # z = exp(b * x), g * z / (z + 1)
    "mse_loss": 3,  # subtract, square, sum
    "mse_loss_backward": 3,  # g * 2 * (x - y)
    "nll_loss": 2,  # negate, sum: one number a target
    "nll_loss_backward": 1,
    # m + (1 - b) * (g - m); b * v + (1 - b) * g * g; p - a * m / (sqrt(v) / c + eps)
    "adam": 13,
}


def per_element(name: str) -> int:
    """FLOPs that one number costs under the operation `name` of the shared table."""
    return PER_ELEMENT[name]
