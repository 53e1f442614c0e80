"""Every head's output at unit power, gated: y = u / sqrt(mean u^2 + floor) * silu(z), u a sum.

Head by head, so that what is worked on stays in the processor's cache, and with its own way back,
which computes u and silu(z) again instead of keeping them.
Related: the gated RMS norm of Mamba-2, https://arxiv.org/abs/2405.21060; here one norm a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional
from torch.utils.flop_counter import register_flop_formula

from undense import cost
from undense.cost import Cost, per_element
from undense.kernels.choice import plain_wins
from undense.kernels.library import alike
from undense.kernels.native_rows import gated
from undense.ops.row_fir import compiled

_LIBRARY = torch.library.Library("undense", "FRAGMENT")
_LIBRARY.define("gated(Tensor z, Tensor[] summands) -> Tensor")
_LIBRARY.define("gated_back(Tensor grad, Tensor z, Tensor[] summands) -> (Tensor, Tensor)")

POWER_FLOOR = 1e-6  # under the outputs' mean square, so that silence stays silent


BLOCK = 1 << 17  # numbers of a group of heads, so that it stays in a 2 MB cache


def unit_gate(z: Tensor, *summands: Tensor) -> Tensor:
    """`z` (batch, heads * width, time), one to three summands (batch, heads, width, chunks,
    chunk), any strides, chunks * chunk = time -> (batch, heads * width, time)."""
    first, second, third = (*summands, None, None)[:3]
    return _UnitGate.apply(z, first, second, third)


class _UnitGate(Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, first: Tensor, second: Tensor | None, third: Tensor | None
    ) -> Tensor:
        summands = [part for part in (first, second, third) if part is not None]
        ctx.save_for_backward(z, *summands)
        if _compiled(z, summands):
            return torch.ops.undense.gated(z, summands)
        y = functional.silu(z)
        for heads, rows in _groups(summands[0]):
            u, scale = _unit(summands, heads)
            y[:, rows].mul_(u.mul_(scale).flatten(3).flatten(1, 2))
        return y

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]  (as the decorator leaves it)
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        grad = grad_outputs[0].contiguous()  # it comes from a product with time first
        z, *summands = ctx.saved_tensors
        unused = [None] * (3 - len(summands))
        if _compiled(z, summands):
            for_z, for_sum = torch.ops.undense.gated_back(grad, z, summands)
            return for_z, *[for_sum] * len(summands), *unused
        for_z = torch.empty_like(z)
        back = torch.empty(summands[0].shape, dtype=z.dtype, device=z.device)
        for heads, rows in _groups(back):
            u, scale = _unit(summands, heads)
            u.mul_(scale)
            gate, here = z[:, rows], grad[:, rows].reshape(u.shape)
            # the derivative of silu, as autograd has it
            for_z[:, rows] = torch.ops.aten.silu_backward((here * u).flatten(3).flatten(1, 2), gate)
            for_u = functional.silu(gate).reshape(u.shape).mul_(here)
            along = (for_u * u).mean(2, keepdim=True)
            back[:, heads] = for_u.sub_(u.mul_(along)).mul_(scale)
        return for_z, *[back] * len(summands), *unused


def _compiled(z: Tensor, summands: Sequence[Tensor]) -> bool:
    return (
        compiled(z)
        and alike(z, summands)
        and not plain_wins("unit_gate", z.dtype, z.shape[1], z.shape[0] * z.shape[2])
    )


@torch.library.impl(_LIBRARY, "gated", "CPU")
def _run(z: Tensor, summands: list[Tensor]) -> Tensor:
    return gated(z, summands, None)[0]


@torch.library.impl(_LIBRARY, "gated_back", "CPU")
def _run_back(grad: Tensor, z: Tensor, summands: list[Tensor]) -> tuple[Tensor, Tensor]:
    for_z, for_sum = gated(z, summands, grad)
    assert for_sum is not None
    return for_z, for_sum


@torch.library.register_fake("undense::gated")
def _(z: Tensor, summands: list[Tensor]) -> Tensor:
    return z.new_empty(z.shape)


@torch.library.register_fake("undense::gated_back")
def _(grad: Tensor, z: Tensor, summands: list[Tensor]) -> tuple[Tensor, Tensor]:
    return z.new_empty(z.shape), z.new_empty(summands[0].shape)


@register_flop_formula(torch.ops.undense.gated)
def _flops(z: Any, summands: Any, **_: Any) -> int:
    numbers, width = math.prod(z), summands[0][2]
    return unit_gate_cost("", numbers, width, summands=len(summands)).forward


@register_flop_formula(torch.ops.undense.gated_back)
def _back_flops(grad: Any, z: Any, summands: Any, **_: Any) -> int:
    numbers, width = math.prod(z), summands[0][2]
    return unit_gate_cost("", numbers, width, summands=len(summands)).backward


def _groups(part: Tensor) -> list[tuple[slice, slice]]:
    """Groups of heads, and the rows that are theirs."""
    heads, width = part.shape[1:3]
    size = max(1, BLOCK * heads // part.numel())
    ends = [(i, min(i + size, heads)) for i in range(0, heads, size)]
    return [(slice(i, j), slice(i * width, j * width)) for i, j in ends]


def _unit(summands: Sequence[Tensor], heads: slice) -> tuple[Tensor, Tensor]:
    """The sum of some heads, (batch, heads, width, chunks, chunk), and what makes its power 1."""
    u = summands[0][:, heads].clone(memory_format=torch.contiguous_format)
    for other in summands[1:]:
        u.add_(other[:, heads])
    return u, u.square().mean(2, keepdim=True).add_(POWER_FLOOR).rsqrt_()


def unit_gate_cost(name: str, numbers: int, width: int, *, summands: int) -> Cost:
    """Back, the sum, its power and both factors once more."""
    silu, silu_back = per_element("silu"), per_element("silu_backward")
    sums, rows = summands - 1, numbers // width
    unit = sums + 2 + 1 + 1  # square, mean, times
    return Cost.total(
        name,
        cost.elementwise(
            "unit power and gate",
            numbers,
            forward=silu + unit + 1,
            backward=unit + 1 + silu_back + silu + 1 + 2 + 1 + 1 + 1,
            macs=3,
        ),
        cost.elementwise("scale", rows, forward=3, backward=3),
    )
