"""One-sided filters along rows as one compiled operation each way, for a CPU in fp32.

y_t = sum_j taps_j x_{t - j}, one filter a row, short (the convolution behind the projections) or
long (the banded kernel): a tap costs one multiply-add and no memory, where PyTorch's own operations
pass over the rows once a tap, or multiply with blocks of a matrix.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.utils.flop_counter import register_flop_formula

from undense import cost
from undense.kernels import native_rows
from undense.kernels.library import runs
from undense.ops.block_fir import filter_blocks_cost, toeplitz_cost

_LIBRARY = torch.library.Library("undense", "FRAGMENT")
_LIBRARY.define("row_fir(Tensor x, Tensor taps, int block) -> Tensor")
_LIBRARY.define(
    "row_fir_back(Tensor[] grads, Tensor[] plain, Tensor x, Tensor taps, int block)"
    " -> (Tensor, Tensor)"
)


def compiled(x: Tensor) -> bool:
    """Whether the compiled operations take `x`."""
    return x.dtype == torch.float32 and runs(x)


def row_fir(x: Tensor, taps: Tensor, *, block: int) -> Tensor:
    """`x` (batch, channels, count - 1 + time), `taps` (channels, count) -> (batch, channels, time).
    `block`: of the Toeplitz matrix in whose products the filter is priced; 0: tap by tap."""
    return _RowFir.apply(x, taps, block)


class _RowFir(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, block: int) -> Tensor:
        ctx.save_for_backward(x, taps)
        ctx.block = block
        return torch.ops.undense.row_fir(x, taps, block)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]  (as the decorator leaves it)
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, taps = ctx.saved_tensors
        back = torch.ops.undense.row_fir_back(list(grad_outputs), [], x, taps, ctx.block)
        return (*back, None)


@torch.library.impl(_LIBRARY, "row_fir", "CPU")
def _run(x: Tensor, taps: Tensor, block: int) -> Tensor:
    del block
    return native_rows.row_fir(x, taps)


@torch.library.impl(_LIBRARY, "row_fir_back", "CPU")
def _run_back(
    grads: list[Tensor], plain: list[Tensor], x: Tensor, taps: Tensor, block: int
) -> tuple[Tensor, Tensor]:
    del block
    return native_rows.row_fir_back(grads, plain, x, taps)


@torch.library.register_fake("undense::row_fir")
def _(x: Tensor, taps: Tensor, block: int) -> Tensor:
    return x.new_empty(len(x), len(taps), x.shape[2] - taps.shape[1] + 1)


@torch.library.register_fake("undense::row_fir_back")
def _(grads: Any, plain: Any, x: Tensor, taps: Tensor, block: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), taps.new_empty(taps.shape)


@register_flop_formula(torch.ops.undense.row_fir)
def _flops(x: Any, taps: Any, block: int, **_: Any) -> int:
    """The first tap a product, the others multiply-adds; or the products that it stands for."""
    (channels, count), time = taps, x[2] - taps[1] + 1
    if block:
        whole = -(-time // block) * block
        return filter_blocks_cost("products", x[0], whole, count, channels).forward
    return cost.elementwise("taps", x[0] * channels * time, forward=2 * count - 1).forward


@register_flop_formula(torch.ops.undense.row_fir_back)
def _back_flops(grads: Any, plain: Any, x: Any, taps: Any, block: int, **_: Any) -> int:
    """For each tap a multiply-add (the first a product), a product and its sum; or by blocks."""
    (channels, count), time = taps, x[2] - taps[1] + 1
    if block:
        whole = -(-time // block) * block
        blocks = toeplitz_cost("blocks", count, channels)
        return blocks.backward + filter_blocks_cost("", x[0], whole, count, channels).backward
    return cost.elementwise("taps", x[0] * channels * time, backward=4 * count - 1).backward
