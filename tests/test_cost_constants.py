"""The table of FLOPs per number: every constant is the arithmetic that it stands for, counted.

What is computed once for a whole row (a mean, a root, a logarithm) is done outside the tally.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from counting_numbers import Number, Tally, erf, exp, largest, log1p, plain, sqrt, tanh, total
from undense.ops.activation import activate
from undense.ops.chebyshev import bounded
from undense.ops.rational import SERIES
from undense.per_number import PER_ELEMENT

X = [0.3, -1.2, 2.0, 0.7, -0.4]
G = [1.0, -0.5, 0.25, 2.0, -1.5]
W = [1.5, 0.5, -1.0, 2.0, 0.1]
N = len(X)
ROOT_2, DENSITY, SLOPE, CUBE = 2**0.5, (2 * math.pi) ** -0.5, (2 / math.pi) ** 0.5, 0.044715

Row = list[Number]
Result = Sequence[Number | float] | float


def sigmoid(x: Number) -> Number:
    return 1 / (1 + exp(-x))


def gelu_backward(g: Number, x: Number) -> Number:
    density = exp(x * x * -0.5) * DENSITY
    return g * ((1 + erf(x / ROOT_2)) * 0.5 + x * density)


def gelu_tanh_backward(g: Number, x: Number) -> Number:
    square = x * x
    t = tanh((x + square * x * CUBE) * SLOPE)
    inner = (1 + square * (3 * CUBE)) * SLOPE
    return g * ((1 + t) * 0.5 + x * 0.5 * (1 - t * t) * inner)


def silu_backward(g: Number, x: Number) -> Number:
    s = sigmoid(x)
    return g * (s * (1 + x * (1 - s)))


def root(x: Number, shift: float) -> Number:
    return 1 / sqrt(x * x + shift)


def bounded_backward(g: Number, z: Number) -> Number:
    r = root(z, 1.0)
    return r * r * r * g


def series(name: str) -> Callable[[Number], Number]:
    def arithmetic(x: Number) -> Number:
        u = x * root(x, SERIES[name].scale ** 2)
        v = u * u
        p0, p1, p2 = SERIES[name].powers()
        return x * (u * (v * (v * p2 + p1) + p0) + 0.5)

    return arithmetic


def series_backward(name: str) -> Callable[[Number, Number], Number]:
    def arithmetic(g: Number, x: Number) -> Number:
        u = x * root(x, SERIES[name].scale ** 2)
        v = u * u
        q0, q1, q2, q3 = SERIES[name].slope()
        return g * (u * (v * (v * (v * q3 + q2) + q1) + q0) + 0.5)

    return arithmetic


def series_of_powers(name: str) -> Callable[[Tensor], Tensor]:
    """The series by its definition, for autograd to differentiate."""

    def function(x: Tensor) -> Tensor:
        scale, odd = SERIES[name]
        u = x / (scale**2 + x * x).sqrt()
        terms = [torch.special.chebyshev_polynomial_t(u.detach(), k) for k in (1, 3, 5)]
        # T_k' = k U_k-1
        slopes = [k * torch.special.chebyshev_polynomial_u(u.detach(), k - 1) for k in (1, 3, 5)]
        parts = zip(odd, terms, slopes, strict=True)
        return x * (0.5 + sum(a * (t + d * (u - u.detach())) for a, t, d in parts))

    return function


def softplus_backward(g: Number, x: Number) -> Number:
    z = exp(x * 1.0)
    return g * z / (z + 1)


def softmax(x: Row) -> Row:
    top = largest(x)
    powers = [exp(v - top) for v in x]
    below = plain(total(powers))
    return [p / below for p in powers]


def log_softmax(x: Row) -> Row:
    top = largest(x)
    below = math.log(plain(total([exp(v - top) for v in x])))
    return [v - top - below for v in x]


def squared_distance(x: Row) -> tuple[float, float]:
    """Mean, and the sum of squared distances from it."""
    mean = plain(total(x)) / N
    return mean, plain(total([(d := v - mean) * d for v in x]))


def layer_norm(x: Row) -> Row:
    mean, squares = squared_distance(x)
    scale = (squares / N) ** -0.5
    return [(v - mean) * scale for v in x]


def rms_norm(x: Row) -> Row:
    scale = (plain(total([v * v for v in x])) / N) ** -0.5
    return [v * scale for v in x]


def logsumexp(x: Row) -> float:
    top = largest(x)
    return math.log(plain(total([exp(v - top) for v in x]))) + top


def softmax_backward(g: Row, y: Sequence[float]) -> Row:
    dot = plain(total([a * b for a, b in zip(g, y, strict=True)]))
    return [(a - dot) * b for a, b in zip(g, y, strict=True)]


def log_softmax_backward(g: Row, y: Row) -> Row:
    whole = plain(total(g))
    return [a - exp(b) * whole for a, b in zip(g, y, strict=True)]


def layer_norm_backward_input(g: Row, x: Row) -> Row:
    mean = sum(X) / N
    scale = (sum((v - mean) ** 2 for v in X) / N) ** -0.5
    weighted = [a * w for a, w in zip(g, W, strict=True)]
    first = plain(total(weighted))
    second = plain(total([a * v for a, v in zip(weighted, x, strict=True)]))
    slope = (first * mean - second) * scale**3 / N
    shift = -slope * mean - first * scale / N
    return [a * scale + v * slope + shift for a, v in zip(weighted, x, strict=True)]


def layer_norm_backward_weight(g: Row, x: Row) -> Row:
    mean = sum(X) / N
    scale = (sum((v - mean) ** 2 for v in X) / N) ** -0.5
    return [0.0 + (v - mean) * scale * a for a, v in zip(g, x, strict=True)]


def rms_norm_backward_input(g: Row, x: Row) -> Row:
    scale = (sum(v * v for v in X) / N) ** -0.5
    weighted = [a * w for a, w in zip(g, W, strict=True)]
    slope = plain(total([a * v for a, v in zip(weighted, x, strict=True)])) * scale**3 / N
    return [a * scale - v * slope for a, v in zip(weighted, x, strict=True)]


def rms_norm_backward_weight(g: Row, x: Row) -> Row:
    scale = (sum(v * v for v in X) / N) ** -0.5
    return [0.0 + v * scale * a for a, v in zip(g, x, strict=True)]


def attention_score_backward(g: Row, x: Row) -> Row:
    """Of softmax(s / 2), the row's sum over g * y being known from the output."""
    below = math.log(sum(math.exp(0.5 * v) for v in X))
    dot = sum(a * math.exp(0.5 * v - below) for a, v in zip(G, X, strict=True))
    return [exp(v * 0.5 - below) * (a - dot) * 0.5 for a, v in zip(g, x, strict=True)]


def each(function: Callable[[Number], Number | float]) -> Callable[[Row], list[Number | float]]:
    return lambda row: [function(x) for x in row]


def gelu_by_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


# name -> the arithmetic of a row, and what PyTorch makes of the row
FORWARD: dict[str, tuple[Callable[[Row], Result], Callable[[Tensor], Tensor]]] = {
    "elementwise": (each(lambda x: x * 2), lambda x: x * 2),
    "gelu": (each(lambda x: x * 0.5 * (1 + erf(x / ROOT_2))), F.gelu),
    "gelu_tanh": (
        each(lambda x: x * 0.5 * (1 + tanh((x + x * x * x * CUBE) * SLOPE))),
        gelu_by_tanh,
    ),
    "sigmoid": (each(sigmoid), torch.sigmoid),
    "silu": (each(lambda x: x * sigmoid(x)), F.silu),
    "relu": (each(lambda x: x if x > 0 else 0.0), torch.relu),
    "tanh": (each(tanh), torch.tanh),
    "bounded": (each(lambda z: z * root(z, 1.0)), bounded),
    **{name: (each(series(name)), lambda x, name=name: activate(x, name)) for name in SERIES},
    "softplus": (each(lambda x: log1p(exp(x * 1.0)) / 1.0), F.softplus),
    "power": (each(lambda x: x * x * x), lambda x: x**3),
    "rsqrt": (each(lambda x: 1 / sqrt(x)), torch.rsqrt),
    "dropout": (each(lambda x: x * (1 / 0.5)), lambda x: x * 2),
    "softmax": (softmax, lambda x: x.softmax(-1)),
    "log_softmax": (log_softmax, lambda x: x.log_softmax(-1)),
    "layer_norm": (layer_norm, lambda x: F.layer_norm(x, (N,), eps=0)),
    "rms_norm": (rms_norm, lambda x: F.rms_norm(x, (N,), eps=0)),
    "variance": (lambda x: squared_distance(x)[1] / (N - 1), lambda x: x.var()),
    "logsumexp": (logsumexp, lambda x: x.logsumexp(-1)),
    "vector_norm": (lambda x: plain(total([v * v for v in x])) ** 0.5, lambda x: x.norm()),
    "attention_score": (
        lambda x: softmax([v * 0.5 for v in x]),
        lambda x: (x * 0.5).softmax(-1),
    ),
    "mse_loss": (
        lambda x: plain(total([(d := v - g) * d for v, g in zip(x, G, strict=True)])) / N,
        lambda x: F.mse_loss(x, torch.tensor(G)),
    ),
}


def pairs(function: Callable[[Number, Number], Number | float]) -> Callable[[Row, Row], Result]:
    return lambda g, x: [function(a, b) for a, b in zip(g, x, strict=True)]


def of_outputs(
    function: Callable[[Row, Row], Result], forward: Callable[[Tensor], Tensor]
) -> Callable[[Row, Row], Result]:
    """The arithmetic reads the output in place of the input."""

    def arithmetic(g: Row, x: Row) -> Result:
        outputs = forward(torch.tensor([v.value for v in x], dtype=torch.float64))
        return function(g, x[0].tally.numbers(outputs.tolist()))

    return arithmetic


def normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, (N,), torch.tensor(W, dtype=x.dtype), eps=0)


def rms_normed(x: Tensor) -> Tensor:
    return F.rms_norm(x, (N,), torch.tensor(W, dtype=x.dtype), eps=0)


def by_weight(norm: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    """The norm of X as a function of its weight."""
    return lambda weight: norm(torch.tensor(X, dtype=weight.dtype), (N,), weight, eps=0)


# name -> the arithmetic of a row's gradient from g and x, and the way forward that it undoes
BACKWARD: dict[str, tuple[Callable[[Row, Row], Result], Callable[[Tensor], Tensor]]] = {
    "gelu_backward": (pairs(gelu_backward), F.gelu),
    "gelu_tanh_backward": (pairs(gelu_tanh_backward), gelu_by_tanh),
    "sigmoid_backward": (
        of_outputs(pairs(lambda g, y: g * (y * (1 - y))), torch.sigmoid),
        torch.sigmoid,
    ),
    "silu_backward": (pairs(silu_backward), F.silu),
    "threshold_backward": (pairs(lambda g, x: g if x > 0 else 0.0), torch.relu),
    "tanh_backward": (of_outputs(pairs(lambda g, y: g * (1 - y * y)), torch.tanh), torch.tanh),
    "bounded_backward": (pairs(bounded_backward), lambda z: z / (1 + z * z).sqrt()),
    **{
        f"{name}_backward": (pairs(series_backward(name)), series_of_powers(name))
        for name in SERIES
    },
    "softplus_backward": (pairs(softplus_backward), F.softplus),
    "softmax_backward": (
        of_outputs(lambda g, y: softmax_backward(g, [v.value for v in y]), lambda x: x.softmax(-1)),
        lambda x: x.softmax(-1),
    ),
    "log_softmax_backward": (
        of_outputs(log_softmax_backward, lambda x: x.log_softmax(-1)),
        lambda x: x.log_softmax(-1),
    ),
    "layer_norm_backward_input": (layer_norm_backward_input, normed),
    "layer_norm_backward_weight": (layer_norm_backward_weight, by_weight(F.layer_norm)),
    "rms_norm_backward_input": (rms_norm_backward_input, rms_normed),
    "rms_norm_backward_weight": (rms_norm_backward_weight, by_weight(F.rms_norm)),
    "attention_score_backward": (attention_score_backward, lambda x: (x * 0.5).softmax(-1)),
    "mse_loss_backward": (
        lambda g, x: [a * ((v - 1.0) * 2.0) for a, v in zip(g, x, strict=True)],
        lambda x: (x - 1.0) ** 2,
    ),
}

# Constants that are sums or parts of others, or too plain for a case.
DERIVED = {
    "layer_norm_affine": 2,  # the product with the weight, the sum with the bias
    "rms_norm_weight": 1,
    "layer_norm_backward_bias": 1,  # the sum of g
    "layer_norm_backward": 8 + 4 + 1,
    "attention_output_backward": 2,  # the sum of g * y
    "nll_loss": 2,
    "adam": 13,  # proved below
    "nll_loss_backward": 1,
}


def test_every_constant_is_derived_here() -> None:
    assert set(PER_ELEMENT) == {*FORWARD, *BACKWARD, *DERIVED}


@pytest.mark.parametrize("name", FORWARD)
def test_constant_is_the_arithmetic_of_the_forward(name: str) -> None:
    arithmetic, function = FORWARD[name]
    values = [abs(x) for x in X] if name == "rsqrt" else X
    tally = Tally()
    result = arithmetic(tally.numbers(values))
    assert _plain(result) == pytest.approx(
        function(torch.tensor(values)).flatten().tolist(), rel=1e-4
    )
    # dropout's mask is divided first: the arithmetic above has it folded into the factor
    assert tally.flops + (name == "dropout") * N == PER_ELEMENT[name] * N


@pytest.mark.parametrize("name", BACKWARD)
def test_constant_is_the_arithmetic_of_the_backward(name: str) -> None:
    arithmetic, function = BACKWARD[name]
    leaf = torch.tensor(X, dtype=torch.float64).requires_grad_()
    (expected,) = torch.autograd.grad(function(leaf), leaf, torch.tensor(G, dtype=torch.float64))
    tally = Tally()
    result = arithmetic(tally.numbers(G), tally.numbers(X))
    assert _plain(result) == pytest.approx(expected.tolist(), rel=1e-6)
    assert tally.flops == PER_ELEMENT[name] * N


@pytest.mark.parametrize("name", DERIVED)
def test_derived_constant_is_what_it_is_derived_from(name: str) -> None:
    assert PER_ELEMENT[name] == DERIVED[name]


def test_adam_is_the_arithmetic_of_one_step() -> None:
    weight = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    weight.grad = torch.tensor(G, dtype=torch.float64)
    torch.optim.Adam([weight], lr=0.1, betas=(0.9, 0.99), eps=1e-8).step()
    tally = Tally()
    b, c, stepped = 0.1, 0.01, []
    # the first step: both means start at 0, and their corrections 1 - 0.9 and 1 - 0.99 are given
    for p, g, m, v in zip(*map(tally.numbers, (X, G, [0.0] * N, [0.0] * N)), strict=True):
        m = m + (g - m) * b
        v = v * (1 - c) + g * g * c
        stepped.append(p - m * (0.1 / b) / (sqrt(v) / c**0.5 + 1e-8))
    assert _plain(stepped) == pytest.approx(weight.detach().tolist(), rel=1e-9)
    assert tally.flops == PER_ELEMENT["adam"] * N


def _plain(result: Result) -> list[float]:
    values: Sequence[Number | float] = result if isinstance(result, Sequence) else [result]
    return [plain(value) for value in values]
