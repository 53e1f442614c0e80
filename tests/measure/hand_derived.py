"""Cases for the counter, worked out by hand, forward and backward.

The expected figures are written as the arithmetic that gives them, on purpose without any helper of
the package: a multiply-add is 2, a complex one 8, a sum, a comparison or a function 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

C64 = torch.complex64


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A random tensor that receives a gradient."""
    return torch.randn(shape, dtype=dtype).requires_grad_()


def given(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A random tensor that receives none."""
    return torch.randn(shape, dtype=dtype)


@dataclass(frozen=True)
class Case:
    """`function` of what `operands` draws; `backward` None: there is no way back."""

    name: str
    function: Callable[..., object]
    operands: Callable[[], tuple[Tensor, ...]]
    forward: int
    backward: int | None = None


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, mask)


def unfused(*operands: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return attend(*operands)


def heads(queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two heads of width 8."""
    return leaf(1, 2, queries, 8), leaf(1, 2, keys, 8), leaf(1, 2, keys, 8)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    left, right = x.chunk(2, -1)
    return x * cosine + torch.cat([-right, left], -1) * sine


def chain() -> tuple[Tensor, ...]:
    """(2, 3) x (3, 4) x (4, 1): the last two first, 2 * 12, then 2 * 6."""
    return given(2, 3), given(3, 4), given(4, 1)


def three_numbers() -> Tensor:
    places = torch.tensor([[0, 2, 5], [1, 3, 0]])
    return torch.sparse_coo_tensor(places, torch.ones(3), (6, 5), check_invariants=True)


def bags() -> Tensor:
    """Two bags of three places each."""
    return torch.tensor([[0, 2, 5], [1, 3, 0]])


def integers(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.int8)


PRODUCTS = [
    Case("matrices", torch.mm, lambda: (leaf(3, 4), leaf(4, 5)), 2 * 3 * 4 * 5, 120 + 120),
    # outer product of gradient and vector, then the transposed matrix times the gradient
    Case("matrix and vector", torch.mv, lambda: (leaf(3, 4), leaf(4)), 2 * 3 * 4, 12 + 24),
    Case("dot product", torch.dot, lambda: (leaf(7), leaf(7)), 2 * 7, 7 + 7),
    Case(
        "linear layer with bias",
        F.linear,
        lambda: (leaf(3, 4), leaf(5, 4), leaf(5)),
        2 * 3 * 4 * 5 + 3 * 5,
        120 + 120 + 15,
    ),
    Case(
        "linear layer on two axes of tokens",
        F.linear,
        lambda: (leaf(2, 3, 4), leaf(5, 4)),
        2 * (2 * 3) * 4 * 5,
        240 + 240,
    ),
    Case("input without gradient", F.linear, lambda: (given(3, 4), leaf(5, 4)), 120, 120),
    Case("batched", torch.bmm, lambda: (leaf(2, 3, 4), leaf(2, 4, 5)), 2 * 2 * 3 * 4 * 5, 2 * 240),
    Case(
        "batched with a broadcast bias",
        torch.baddbmm,
        lambda: (leaf(2, 1, 5), leaf(2, 3, 4), leaf(2, 4, 5)),
        240 + 2 * 3 * 5,
        480 + 30,
    ),
    Case(
        "sum with twice a product",
        lambda x, a, b: torch.addmm(x, a, b, alpha=2),
        lambda: (given(3, 5), given(3, 4), given(4, 5)),
        120 + 15 + 15,
    ),
    Case("matrix, vector and sum", torch.addmv, lambda: (given(3), given(3, 4), given(4)), 24 + 3),
    Case(
        "complex matrices: 6 to multiply, 2 to add",
        torch.mm,
        lambda: (leaf(3, 4, dtype=C64), leaf(4, 5, dtype=C64)),
        3 * 4 * 5 * 8,
        480 + 480,
    ),
    Case("sparse matrix", torch.sparse.mm, lambda: (three_numbers(), given(5, 7)), 2 * 3 * 7),
    Case("8-bit", torch.ops.aten._int_mm, lambda: (integers(3, 8), integers(8, 4)), 2 * 3 * 8 * 4),
    Case(
        "convolution: 7 places, 4 taps of 3 channels, 6 filters",
        F.conv1d,
        lambda: (leaf(2, 3, 10), leaf(6, 3, 4), leaf(6)),
        2 * (2 * 6 * 7) * (3 * 4) + 2 * 6 * 7,
        2 * (2 * 84 * 12) + 84,
    ),
    Case("fixed filter", F.conv1d, lambda: (leaf(2, 3, 10), given(6, 3, 4)), 2016, 2016),
    Case(
        "depthwise convolution",
        lambda x, w: F.conv1d(x, w, padding=1, groups=8),
        lambda: (leaf(2, 8, 16), leaf(8, 1, 3)),
        2 * (2 * 8 * 16) * 3,
        2 * 1536,
    ),
    Case(
        "strided convolution in two groups",
        lambda x, w: F.conv2d(x, w, stride=2, padding=1, groups=2),
        lambda: (leaf(1, 4, 8, 8), leaf(6, 2, 3, 3)),
        2 * (6 * 4 * 4) * (2 * 3 * 3),
        2 * 3456,
    ),
    Case(
        "transposed convolution: every input meets 5 filters of 4 taps",
        F.conv_transpose1d,
        lambda: (leaf(2, 3, 7), leaf(3, 5, 4)),
        2 * (2 * 3 * 7) * (5 * 4),
        2 * 1680,
    ),
]

TRANSFORMS = [
    # 5 * 8 * log2(8) / 2 = 60; back through it runs a complex transform over all 8 places
    Case("real transform", torch.fft.rfft, lambda: (leaf(3, 8),), 3 * 60, 3 * 120),
    Case("length not a power of two", torch.fft.rfft, lambda: (given(6),), 5 * 6 * 3 // 2),
    Case("odd length, rounded down", torch.fft.rfft, lambda: (given(2, 5),), 2 * 37),
    Case("length one", torch.fft.rfft, lambda: (given(4, 1),), 0),
    # back: a real transform, and the 3 middle frequencies doubled (2 FLOPs each)
    Case("inverse real transform", torch.fft.irfft, lambda: (leaf(5, dtype=C64),), 60, 60 + 3 * 2),
    Case("complex transform", torch.fft.fft, lambda: (leaf(16, dtype=C64),), 5 * 16 * 4, 320),
    Case("its inverse", torch.fft.ifft, lambda: (leaf(2, 16, dtype=C64),), 2 * 320, 2 * 320),
    # 4 real rows of 60, then 5 complex columns of 2 * (5 * 4 * 2 / 2)
    Case("two dimensions", torch.fft.rfft2, lambda: (given(4, 8),), 4 * 60 + 5 * 40),
    Case("their inverse", torch.fft.irfft2, lambda: (given(4, 5, dtype=C64),), 5 * 40 + 4 * 60),
    Case("all frequencies of real numbers", torch.fft.fft, lambda: (given(8),), 60),
]

# 2 heads * 4 * 4 = 32 scores of width 8; 6 for each: scale, maximum, subtract, exp, sum, divide.
# Back: scores again, dV, dP, dQ, dK; scale, p (2), p * (dp - d) (2), scale; d = sum(g * y).
FORWARD = 2 * (2 * 32 * 8) + 6 * 32
BACKWARD = 5 * (2 * 32 * 8) + 6 * 32 + 2 * (2 * 4 * 8)
ATTENTION = [
    Case("attention", attend, lambda: heads(4, 4), FORWARD, BACKWARD),
    Case(
        "causal attention costs the same",
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        lambda: heads(4, 4),
        FORWARD,
        BACKWARD,
    ),
    Case(
        "attention with a mask",
        attend,
        lambda: (*heads(4, 4), given(4, 4)),
        FORWARD + 32,
        BACKWARD + 32,
    ),
    Case("more keys than queries", attend, lambda: heads(3, 5), 2 * (2 * 30 * 8) + 6 * 30),
    Case(
        "four query heads on two key heads: 64 scores",
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        lambda: (given(1, 4, 4, 8), given(1, 2, 4, 8), given(1, 2, 4, 8)),
        2 * (2 * 64 * 8) + 6 * 64,
    ),
    # queries and keys scaled, two products, softmax; nothing for the whole on top
    Case("unfused, by its parts", unfused, lambda: heads(4, 4), 64 + 64 + 512 + 5 * 32 + 512),
]

POINTWISE = [
    Case("broadcast sum", torch.add, lambda: (leaf(3, 4), leaf(4)), 12, 12),
    Case("broadcast product", torch.mul, lambda: (leaf(3, 4), leaf(4)), 12, 12 + 12 + 12),
    Case("sum with a factor", lambda x: torch.add(x, x, alpha=2), lambda: (given(9),), 9 + 9),
    # g / y and -g * ((x / y) / y)
    Case("quotient", torch.div, lambda: (leaf(6), leaf(6)), 6, 6 + 4 * 6),
    # g * (3 * x ** 2)
    Case("cube", lambda x: x**3, lambda: (leaf(6),), 2 * 6, (2 + 1 + 1) * 6),
    Case("square root", torch.sqrt, lambda: (given(6),), 6),
    Case("one over the root", torch.rsqrt, lambda: (given(6),), 2 * 6),
    Case("product and sum", torch.addcmul, lambda: (given(6), given(6), given(6)), 2 * 6),
    Case("interpolation", lambda x, y: x.lerp(y, 0.3), lambda: (given(6), given(6)), 3 * 6),
    Case("two bounds", lambda x: x.clamp(-1, 1), lambda: (given(6),), 2 * 6),
    Case("one bound", lambda x: x.clamp(min=0), lambda: (given(6),), 6),
    Case("comparison", lambda x: x > 0, lambda: (given(6),), 6),
    Case("GELU", F.gelu, lambda: (leaf(6),), 5 * 6, 11 * 6),
    Case("GELU by tanh", lambda x: F.gelu(x, approximate="tanh"), lambda: (leaf(6),), 54, 18 * 6),
    Case("SiLU", F.silu, lambda: (leaf(6),), 5 * 6, 9 * 6),
    Case("ReLU", F.relu, lambda: (leaf(6),), 6, 6),
    Case("tanh", torch.tanh, lambda: (leaf(6),), 6, 3 * 6),
    Case("sigmoid", torch.sigmoid, lambda: (leaf(6),), 4 * 6, 3 * 6),
    Case("in place", lambda x: x.mul_(2).sigmoid_(), lambda: (given(6),), 6 + 4 * 6),
    # the mask is drawn, then divided by 1 - p; back, only the product
    Case("dropout", lambda x: F.dropout(x, 0.5), lambda: (leaf(6),), 6 + 6, 6),
    Case("complex sum", torch.add, lambda: (leaf(5, dtype=C64), leaf(5, dtype=C64)), 2 * 5, 0),
    Case("complex product", torch.mul, lambda: (leaf(5, dtype=C64), leaf(5, dtype=C64)), 30, 60),
    Case("complex times real", torch.mul, lambda: (given(5, dtype=C64), given(5)), 2 * 5),
    Case("complex quotient", torch.div, lambda: (given(5, dtype=C64), given(5, dtype=C64)), 55),
    Case("length of a complex number", torch.abs, lambda: (given(5, dtype=C64),), 4 * 5),
    Case("integers", lambda n: n * 2 + n, lambda: (integers(6),), 0),
    # g * -sin(x), and the sum with g
    Case("used twice", lambda x: x.cos() + x, lambda: (leaf(6),), 6 + 6, 3 * 6 + 6),
]

REDUCTIONS = [
    Case("sum", torch.sum, lambda: (leaf(3, 4),), 12, 0),
    Case("mean", torch.mean, lambda: (leaf(3, 4),), 12, 12),
    Case("sum of complex numbers", torch.sum, lambda: (given(6, dtype=C64),), 12),
    Case("maximum", lambda x: x.amax(-1), lambda: (given(3, 4),), 12),
    Case("variance", lambda x: x.var(-1), lambda: (given(3, 4),), 4 * 12),
    Case("length of a vector", torch.linalg.vector_norm, lambda: (given(3, 4),), 2 * 12),
    Case("running sum", lambda x: x.cumsum(-1), lambda: (leaf(3, 4),), 12, 12),
    Case("best two of four", lambda x: x.topk(2).values, lambda: (given(3, 4),), 12),
    Case("sort: 3 levels of 6", lambda x: x.sort().values, lambda: (given(2, 6),), 12 * 3),
    Case("softmax", lambda x: x.softmax(-1), lambda: (leaf(3, 4),), 5 * 12, 4 * 12),
    Case("its logarithm", lambda x: x.log_softmax(-1), lambda: (leaf(3, 4),), 6 * 12, 4 * 12),
    # 3 targets: negate and sum; back, one number each
    Case(
        "cross-entropy",
        lambda x: F.cross_entropy(x, torch.tensor([0, 1, 3])),
        lambda: (leaf(3, 4),),
        6 * 12 + 2 * 3,
        3 + 4 * 12,
    ),
    Case("squared error", F.mse_loss, lambda: (leaf(3, 4), given(3, 4)), 3 * 12, 3 * 12),
    Case(
        "layer norm",
        lambda x, *affine: F.layer_norm(x, (4,), *affine),
        lambda: (leaf(3, 4), leaf(4), leaf(4)),
        (6 + 2) * 12,
        (8 + 4 + 1) * 12,
    ),
    Case("without weight", lambda x: F.layer_norm(x, (4,)), lambda: (leaf(3, 4),), 72, 7 * 12),
    Case(
        "layer norm whose weight is fixed",
        lambda x, weight: F.layer_norm(x, (4,), weight),
        lambda: (leaf(3, 4), given(4)),
        7 * 12,
        8 * 12,
    ),
    Case(
        "group norm",
        lambda x, *affine: F.group_norm(x, 3, *affine),
        lambda: (leaf(2, 6, 5), leaf(6), leaf(6)),
        8 * 60,
        13 * 60,
    ),
    Case(
        "batch norm in training",
        lambda x, *affine: F.batch_norm(x, None, None, *affine, training=True),
        lambda: (leaf(4, 3), leaf(3), leaf(3)),
        8 * 12,
        13 * 12,
    ),
    # square (2), mean; plus epsilon, root and quotient once a row; two products
    Case(
        "RMS norm, unfused on a CPU",
        lambda x, weight: F.rms_norm(x, (4,), weight),
        lambda: (given(3, 4), given(4)),
        2 * 12 + 12 + 3 + 2 * 3 + 12 + 12,
    ),
    Case(
        "looking words up; back, sums into the table",
        lambda table: F.embedding(torch.tensor([1, 1, 8]), table),
        lambda: (leaf(9, 4),),
        0,
        3 * 4,
    ),
    # 2 bags of 3 rows of width 4 are added up; back, each is added to its row
    Case(
        "sums of rows in bags",
        lambda table: F.embedding_bag(bags(), table, mode="sum"),
        lambda: (leaf(6, 4),),
        2 * 3 * 4,
        2 * 3 * 4,
    ),
    # times a weight, then added; back, the same into the rows, a dot product for each weight
    Case(
        "weighted sums of rows in bags",
        lambda table, w: F.embedding_bag(bags(), table, mode="sum", per_sample_weights=w),
        lambda: (leaf(6, 4), leaf(2, 3)),
        2 * (2 * 3 * 4),
        2 * 24 + 2 * 24,
    ),
    Case(
        "weighted sums without a gradient",
        lambda table, w: F.embedding_bag(bags(), table, mode="sum", per_sample_weights=w),
        lambda: (given(6, 4), given(2, 3)),
        48,
    ),
    Case("gathering", lambda x: x[:, torch.tensor([0, 0, 4])], lambda: (leaf(3, 5),), 0, 3 * 3),
    Case(
        "adding rows at indices",
        lambda x, rows: x.index_add(0, torch.tensor([0, 3]), rows),
        lambda: (given(5, 4), given(2, 4)),
        2 * 4,
    ),
    Case(
        "adding numbers at indices",
        lambda x, numbers: x.scatter_add(1, torch.zeros(2, 3, dtype=torch.long), numbers),
        lambda: (given(2, 6), given(2, 3)),
        2 * 3,
    ),
]


def pool(function: Callable[..., Tensor], dims: int, size: int) -> Case:
    """Windows of 2 a side: 2 ** dims numbers meet for each of the results."""
    numbers = 2 * 4**dims
    return Case(
        f"{function.__name__} over {dims} axes",
        lambda x: function(x, size),
        lambda: (leaf(1, 2, *[4] * dims),),
        numbers,
        2 * 2**dims,
    )


POOLING = [
    pool(F.max_pool2d, 2, 2),
    pool(F.max_pool3d, 3, 2),
    pool(F.adaptive_max_pool2d, 2, 2),
    pool(F.adaptive_max_pool3d, 3, 2),
    # a sigmoid (4) and a product; back g * s, that * a * (1 - s), and the sigmoid again
    Case("gated linear unit", F.glu, lambda: (leaf(3, 4),), 5 * 6, (4 + 4) * 6),
    Case(
        "cross-entropy on a plane",
        lambda x: F.cross_entropy(x, torch.zeros(1, 2, 2, dtype=torch.long)),
        lambda: (leaf(1, 3, 2, 2),),
        6 * 12 + 2 * 4,
        4 + 4 * 12,
    ),
    Case("L1 loss", F.l1_loss, lambda: (leaf(6), given(6)), 3 * 6, (1 + 1 + 1) * 6),
    Case("cheapest order of three", lambda *m: torch.linalg.multi_dot(m), chain, 24 + 12),
    Case(
        "einsum of a batch of blocks",
        lambda x, w: torch.einsum("tbi,bio->tbo", x, w),
        lambda: (leaf(5, 2, 3), leaf(2, 3, 4)),
        2 * 5 * 2 * 3 * 4,
        2 * 240,
    ),
    Case("outer product", torch.outer, lambda: (given(3), given(4)), 12),
    # two halves: x * cos + rotated * sin, the half that turns negated
    Case("rotary position", rotate, lambda: (given(3, 8), given(3, 8), given(3, 8)), 24 * 3 + 12),
]

CASES = [*PRODUCTS, *TRANSFORMS, *ATTENTION, *POINTWISE, *REDUCTIONS, *POOLING]
