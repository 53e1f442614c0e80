"""Cases of one operation each, called by its name in PyTorch, so that every formula has one.

Where nothing else is said, operands have 6 numbers and the figure is FLOPs for each of them.
"""

from __future__ import annotations

from typing import Any

import torch
from hand_derived import Case
from torch import Tensor

X = torch.linspace(0.1, 0.9, 6)
Z = torch.complex(X, X)
MASK = X > 0.5
INDEX = torch.tensor([0, 1, 1, 3, 0, 2])
PAIR = [X[:2], X[2:]]  # 6 numbers in a list of two tensors
SQUARE = torch.eye(3) * 4 + 1
SIDES = torch.ones(3, 2)
PLANE = torch.arange(32.0).view(1, 2, 4, 4)
SPACE = torch.arange(16.0).view(1, 2, 2, 2, 2)
HEADS = torch.empty(1, 2, 4, 8, device="meta")  # 32 scores of width 8
ROWS = torch.empty(1, 2, 4, device="meta")
PLACE = torch.empty((), dtype=torch.long, device="meta")
SPARSE = torch.eye(3).to_sparse()
BF16 = torch.ones(16, 16, dtype=torch.bfloat16)
HALF, BYTES = torch.ones(4, 16, dtype=torch.bfloat16), torch.ones(4, 16, dtype=torch.int8)
ENDS = torch.tensor([8, 16], dtype=torch.int32)
META = torch.empty(2, 8, device="meta")
STATISTICS = [torch.zeros(2), torch.ones(2)]


def operation(name: str, arguments: tuple[Any, ...], flops: int, **named: Any) -> Case:
    """Run once, without a way back. `name` may say an overload after a full stop."""

    def call() -> object:
        packet, _, overload = name.partition(".")
        family = getattr(torch.ops.aten, packet)
        return (getattr(family, overload) if overload else family)(*arguments, **named)

    return Case(f"operation {name}", call, tuple, flops)


ONE = """
abs neg sign sgn floor ceil round trunc frac isnan isinf isneginf isposinf angle signbit reciprocal
sqrt exp exp2 expm1 log log2 log10 log1p sin cos tan sinh cosh tanh asin acos atan asinh acosh atanh
erf erfc erfinv deg2rad rad2deg lgamma digamma i0 special_erfcx special_i0e special_i1 special_i1e
special_ndtri special_log_ndtr relu
"""
TWO_OPERANDS_ONE = """
maximum minimum fmax fmin eq ne lt le gt ge heaviside nextafter atan2 fmod remainder floor_divide
igamma igammac special_zeta sub rsub
"""
LISTED_ONE = """
abs ceil floor round trunc frac sign neg acos asin atan cos cosh erf erfc exp expm1 lgamma log log10
log1p log2 reciprocal sin sinh sqrt tan tanh max
"""
LISTED_BOTH_ONE = "maximum minimum clamp_max clamp_min mul div add sub"

# Arguments, then FLOPs for each of 6 numbers.
PER_NUMBER: list[tuple[str, tuple[Any, ...], int]] = [
    ("hypot", (X, X), 2 + 1 + 1),  # two squares, sum, root
    ("xlogy", (X, X), 2),
    ("special_xlog1py", (X, X), 2),
    ("special_entr", (X,), 3),
    ("polygamma", (1, X), 1),
    ("nan_to_num", (X,), 3),
    ("ldexp", (X, X), 2),
    ("sinc", (X,), 3),
    ("logit", (X,), 3),
    ("logaddexp", (X, X), 7),
    ("logaddexp2", (X, X), 7),
    ("polar", (X, X), 4),  # cosine, sine, two products
    ("_masked_scale", (X.to("meta"), MASK.to("meta"), 2.0), 1),
    ("addcdiv", (X, X, X), 2),
    ("threshold", (X, 0.1, 0.0), 1),
    ("leaky_relu", (X,), 2),
    ("leaky_relu_backward", (X, X, 0.1, False), 2),
    ("_prelu_kernel", (X, X), 2),
    ("_prelu_kernel_backward", (X, X, X), 3),
    ("rrelu_with_noise", (X, X), 2),
    ("elu", (X,), 4),
    ("elu_backward", (X, 1, 1, 1, False, X), 3),
    ("celu", (X,), 4),
    ("hardtanh", (X,), 2),
    ("hardtanh_backward", (X, X, -1, 1), 2),
    ("hardsigmoid", (X,), 4),
    ("hardsigmoid_backward", (X, X), 3),
    ("hardswish", (X,), 5),
    ("hardswish_backward", (X, X), 5),
    ("hardshrink", (X,), 2),
    ("hardshrink_backward", (X, X, 0.5), 2),
    ("softshrink", (X,), 3),
    ("softshrink_backward", (X, X, 0.5), 2),
    ("softplus", (X,), 4),
    ("softplus_backward", (X, X, 1, 20), 5),
    ("mish", (X,), 4),
    ("mish_backward", (X, X), 3 + 4 + 6),
    ("log_sigmoid_forward", (X,), 6),
    ("log_sigmoid_backward", (X, X, X), 6),
    ("logit_backward", (X, X), 3),
    ("silu_backward", (X, X), 9),
    ("sigmoid_backward", (X, X), 3),
    ("native_dropout", (X, 0.5, True), 2),
    ("native_dropout_backward", (X, MASK, 2.0), 2),
    ("mse_loss_backward", (X, X, X, 1), 3),
    ("smooth_l1_loss", (X, X), 7),
    ("smooth_l1_loss_backward", (X, X, X, 1, 1.0), 6),
    ("huber_loss", (X, X), 6),
    ("huber_loss_backward", (X, X, X, 1, 1.0), 5),
    ("soft_margin_loss", (X, X), 5),
    ("binary_cross_entropy", (X, X), 11),
    ("binary_cross_entropy_backward", (X, X, X), 6),
    ("binary_cross_entropy_with_logits", (X, X), 10),
    ("nansum", (X,), 1),
    ("amin", (X,), 1),
    ("max", (X,), 1),
    ("min", (X,), 1),
    ("argmax", (X,), 1),
    ("argmin", (X,), 1),
    ("median", (X,), 1),
    ("nanmedian", (X,), 1),
    ("kthvalue", (X, 2), 1),
    ("mode", (X,), 1),
    ("cummax", (X, 0), 1),
    ("cummin", (X, 0), 1),
    ("any", (X,), 1),
    ("all", (X,), 1),
    ("count_nonzero", (X,), 1),
    ("histc", (X,), 1),
    ("prod", (X,), 1),
    ("cumprod", (X, 0), 1),
    ("aminmax", (X,), 2),
    ("logsumexp", (X, [0]), 4),
    ("logcumsumexp", (X, 0), 7),
    ("_logcumsumexp", (X, 0), 7),
    ("dist", (X, X), 3),
    ("std", (X,), 4),
    ("var_mean", (X,), 4),
    ("std_mean", (X,), 4),
    ("norm", (X,), 2),
    ("_safe_softmax", (X, 0), 5),
]


# Complex numbers: FLOPs for each of 6.
COMPLEX: list[tuple[str, tuple[Any, ...], int]] = [
    ("neg", (Z,), 2),
    ("conj_physical", (Z,), 1),
    ("eq", (Z, Z), 2),
    ("angle", (Z,), 1),
    ("exp", (Z,), 5),
    ("log", (Z,), 4 + 1 + 1),  # length, logarithm, angle
    ("sgn", (Z,), 6),
    ("reciprocal", (Z,), 6),
    ("addcmul", (Z, Z, Z), 6 + 2),
    ("prod", (Z,), 6),
    ("linalg_vector_norm", (Z,), 4),
    ("mean", (Z,), 2),
    ("div", (Z, X), 2),
]

N = 32 * 8  # multiply-adds of scores with keys, or with values
ADAM = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "amsgrad": False, "maximize": False}
SGD = {"lr": 0.1, "dampening": 0.0, "nesterov": True, "maximize": False, "is_first_step": False}
STEPS = [torch.ones(()), torch.ones(())]

# Arguments, then FLOPs in all.
WHOLE: list[tuple[str, tuple[Any, ...], int]] = [
    ("linalg_cross", (SQUARE, SQUARE), 9 * 3),
    ("trace", (SQUARE,), 3),
    ("_cdist_forward", (SQUARE, SQUARE, 2.0, None), 3 * 3 * 3 * 3),
    ("searchsorted", (X, X), 6 * 3),  # among 6: 3 comparisons
    ("bucketize", (X, X), 6 * 3),
    ("_embedding_bag", (SIDES, INDEX % 3, torch.tensor([0, 2])), 6 * 2),
    ("_embedding_bag_forward_only", (SIDES, INDEX % 3, torch.tensor([0, 2])), 6 * 2),
    ("scatter_reduce.two", (X, 0, INDEX, X, "sum"), 6),
    ("index_reduce", (X, 0, INDEX, X, "prod"), 6),
    ("index_put", (X, [INDEX], X, True), 6),
    ("_index_put_impl_", (X.clone(), [INDEX], X, True), 6),
    ("_unsafe_index_put", (X, [INDEX], X, True), 6),
    ("unfold_backward", (torch.ones(5, 2), [6], 0, 2, 1), 5 * 2),
    ("col2im", (torch.ones(4, 9), [4, 4], [2, 2], [1, 1], [0, 0], [1, 1]), 4 * 9),
    ("bincount", (INDEX, X), 6),
    ("nll_loss2d_forward", (PLANE, torch.zeros(1, 4, 4, dtype=torch.long), None, 1, -100), 2 * 16),
    ("avg_pool2d", (PLANE, [2, 2]), 8 * 4),
    ("avg_pool3d", (SPACE, [2]), 2 * 8),
    (
        "avg_pool2d_backward",
        (PLANE[:, :, :2, :2], PLANE, [2, 2], [2, 2], [0, 0], False, True, None),
        8 * 4,
    ),
    (
        "avg_pool3d_backward",
        (torch.ones(1, 2, 1, 1, 1), SPACE, [2], [2], [0], False, True, None),
        2 * 8,
    ),
    ("max_pool2d_with_indices", (PLANE, [2, 2]), 8 * 4),
    ("max_pool3d_with_indices", (SPACE, [2]), 2 * 8),
    ("_adaptive_avg_pool2d", (PLANE, [2, 2]), 32),
    ("_adaptive_avg_pool3d", (SPACE, [1, 1, 1]), 16),
    ("_adaptive_avg_pool2d_backward", (PLANE[:, :, :2, :2], PLANE), 32),
    ("_adaptive_avg_pool3d_backward", (torch.ones(1, 2, 1, 1, 1), SPACE), 16),
    ("adaptive_max_pool2d", (PLANE, [2, 2]), 32),
    ("adaptive_max_pool3d", (SPACE, [1, 1, 1]), 16),
    ("upsample_nearest1d_backward", (X.view(1, 1, 6), [6], [1, 1, 3]), 6),
    ("upsample_nearest2d_backward", (PLANE, [4, 4], [1, 2, 2, 2]), 32),
    ("upsample_nearest3d_backward", (SPACE, [2, 2, 2], [1, 2, 1, 1, 1]), 16),
    ("_upsample_nearest_exact1d_backward", (X.view(1, 1, 6), [6], [1, 1, 3]), 6),
    ("_upsample_nearest_exact2d_backward", (PLANE, [4, 4], [1, 2, 2, 2]), 32),
    ("_upsample_nearest_exact3d_backward", (SPACE, [2, 2, 2], [1, 2, 1, 1, 1]), 16),
    ("reflection_pad1d_backward", (X.view(1, 6), torch.ones(1, 4), [1, 1]), 6),
    ("replication_pad1d_backward", (X.view(1, 6), torch.ones(1, 4), [1, 1]), 6),
    ("reflection_pad2d_backward", (PLANE, PLANE[:, :, :2, :2], [1] * 4), 32),
    ("replication_pad2d_backward", (PLANE, PLANE[:, :, :2, :2], [1] * 4), 32),
    ("reflection_pad3d_backward", (torch.ones(1, 1, 4, 4, 4), SPACE[:, :1], [1] * 6), 64),
    ("replication_pad3d_backward", (torch.ones(1, 1, 4, 4, 4), SPACE[:, :1], [1] * 6), 64),
    # n = 3: 27 / 3, 54 / 3, each triangular solve 9 a right-hand side
    ("linalg_cholesky_ex", (SQUARE,), 9),
    ("cholesky", (SQUARE,), 9),
    ("cholesky_solve", (SIDES, SQUARE), 2 * 9 * 2),
    ("linalg_lu_factor_ex", (SQUARE,), 18),
    ("_linalg_solve_ex", (SQUARE, SIDES), 18 + 2 * 9 * 2),
    ("_linalg_solve_ex", (SQUARE, X[:3]), 18 + 2 * 9),
    ("_linalg_det", (SQUARE,), 18),
    ("_linalg_slogdet", (SQUARE,), 18),
    ("linalg_inv_ex", (SQUARE,), 54),
    ("linalg_qr", (torch.ones(4, 3),), 2 * (2 * 9 * (4 - 1))),
    ("linalg_lu_solve", (SQUARE, torch.arange(1, 4, dtype=torch.int32), SIDES), 2 * 9 * 2),
    ("vdot", (X, X), 2 * 6),
    ("addbmm", (SQUARE, SQUARE.view(1, 3, 3), SQUARE.view(1, 3, 3)), 2 * 27 + 9),
    ("addr", (SQUARE, X[:3], X[:3]), 9 + 9),
    ("_addmm_activation", (X[:3], SQUARE, SQUARE), 2 * 27 + 9 + 9),
    ("_trilinear", (SIDES, torch.ones(4, 2, 2), SIDES, [1, 3], [0], [1, 2], [2, 3]), 3 * 48),
    ("_sparse_mm", (SPARSE, SQUARE), 2 * 3 * 3),
    ("_sparse_addmm", (SQUARE, SPARSE, SQUARE), 2 * 3 * 3 + 9),
    ("_weight_int8pack_mm", (HALF, BYTES, HALF[0, :4]), 2 * 4 * 4 * 16 + 4 * 4),
    ("_grouped_mm", (BF16, BF16.view(2, 16, 8), ENDS), 2 * 16 * 16 * 8),
    ("_grouped_mm", (BF16.view(2, 8, 16), BF16, ENDS * 2), 2 * 8 * 16 * 16),
    ("_fused_rms_norm_backward", (META, META, [8], META[:, :1], META[0], [True, True]), 9 * 16),
    ("_native_batch_norm_legit.no_stats", (SIDES, None, None, True, 0.1, 1e-5), 6 * 6),
    ("_native_batch_norm_legit_no_training", (SIDES, None, None, *STATISTICS, 0.1, 1e-5), 6 * 2),
    (
        "_native_batch_norm_legit_functional",
        (SIDES, None, None, *STATISTICS, True, 0.1, 1e-5),
        6 * 6,
    ),
    ("_foreach_powsum", (PAIR,), 6 * 2),
    (
        "_amp_foreach_non_finite_check_and_unscale_",
        ([x.clone() for x in PAIR], torch.zeros(1), torch.ones(())),
        6 * 2,
    ),
    ("clamp_min", (X, 0.0), 6),
    ("clamp_max", (X, 0.0), 6),
    ("_weight_norm_interface", (SIDES, torch.ones(3, 1)), 6 * 3),
    (
        "_weight_norm_interface_backward",
        (SIDES, SIDES, torch.ones(3, 1), torch.ones(3, 1), 0),
        6 * 5,
    ),
    ("_foreach_pow.List", (PAIR, PAIR), 6 * 2),
    ("_foreach_rsqrt", (PAIR,), 6 * 2),
    ("_foreach_sigmoid", (PAIR,), 6 * 4),
    ("_foreach_lerp.List", (PAIR, PAIR, PAIR), 6 * 3),
    ("_foreach_norm", (PAIR,), 6 * 2),
    ("_foreach_addcmul.Scalar", (PAIR, PAIR, PAIR, 2.0), 6 * 3),
    ("_foreach_addcdiv.Scalar", (PAIR, PAIR, PAIR), 6 * 2),
    ("_foreach_addcdiv.ScalarList", (PAIR, PAIR, PAIR, [0.1, 0.1]), 6 * 3),
    # On the meta device, where kernels of a GPU need none
    ("_scaled_dot_product_flash_attention", (HEADS,) * 3, 4 * N + 6 * 32),
    ("_scaled_dot_product_efficient_attention", (HEADS,) * 3 + (None, True), 4 * N + 6 * 32),
    ("_scaled_dot_product_cudnn_attention", (HEADS,) * 3 + (None, True), 4 * N + 6 * 32),
]


def _copies() -> list[list[Tensor]]:
    """Weights, gradients and two running means, in two tensors each."""
    return [[x.clone() for x in PAIR] for _ in range(4)]


def _sampled() -> Tensor:
    return torch.sparse.sampled_addmm(torch.eye(3).to_sparse_csr(), SQUARE, SQUARE)


SINGLE = [
    Case("product at three places", _sampled, tuple, 3 * 2 * 3 + 3),
    *(operation(name, (X,), 6) for name in ONE.split()),
    *(operation(name, (X, X), 6) for name in TWO_OPERANDS_ONE.split()),
    *(operation(f"_foreach_{name}", (PAIR,), 6) for name in LISTED_ONE.split()),
    *(operation(f"_foreach_{name}.List", (PAIR, PAIR), 6) for name in LISTED_BOTH_ONE.split()),
    *(operation(name, arguments, flops * 6) for name, arguments, flops in PER_NUMBER),
    *(operation(name, arguments, flops * 6) for name, arguments, flops in COMPLEX),
    *(operation(name, arguments, flops) for name, arguments, flops in WHOLE),
    operation("linalg_solve_triangular", (SQUARE, SIDES), 9 * 2, upper=True),
    # m 3, v 4, root, correction and epsilon 3, step 3; decay g + w * p, or p * (1 - a * w)
    operation("_fused_adam_", (*_copies(), [], STEPS), 6 * 15, weight_decay=0.1, **ADAM),
    operation("_fused_adamw_", (*_copies(), [], STEPS), 6 * 14, weight_decay=0.1, **ADAM),
    # decay 2, buffer 3, Nesterov 2, step 2
    operation("_fused_sgd_", (*_copies()[:3],), 6 * 9, weight_decay=0.1, momentum=0.9, **SGD),
]
