"""A two-layer map of which every token computes only the blocks of hidden neurons chosen for it.

Pairs (token, block) are grouped by block (`kernels/`: compiled code, plain PyTorch beside it). The
grouping depends on the data, so this is a custom operation with its own backward, shapes and FLOPs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op, register_autocast
from torch.utils.flop_counter import register_flop_formula

from undense import cost
from undense.cost import Cost
from undense.errors import UndenseError
from undense.kernels.grouped import grouped
from undense.kernels.library import ACTIVATIONS, forward_mode
from undense.kernels.native_pairs import NativePairs
from undense.kernels.pairs import Pairs, wide
from undense.ops.activation import activate, activate_backward


def chosen_blocks(
    x: Tensor,
    up: Tensor,
    up_bias: Tensor | None,
    down: Tensor,
    chosen: Tensor,
    gates: Tensor,
    activation: str,
) -> Tensor:
    """y = sum over the chosen blocks b of gate_b * down_b^T act(up_b x + up_bias_b).

    Shapes: `x` (tokens, dim); `up` (blocks, size, dim), or (blocks, 2 * size, dim) for a gated map
    act(first half) * second half; `up_bias` (blocks, size or 2 * size) or None; `down`
    (blocks, size, dim); `chosen` (tokens, k), integers; `gates` (tokens, k). Returns (tokens, dim).
    """
    if forward_mode():
        raise UndenseError(
            "token-chosen blocks have no derivative in forward mode; differentiate backwards"
        )
    return _forward(x, up, up_bias, down, chosen, gates, activation)[0]


@custom_op("undense::chosen_blocks", mutates_args=())
def _forward(
    x: Tensor,
    up: Tensor,
    up_bias: Tensor | None,
    down: Tensor,
    chosen: Tensor,
    gates: Tensor,
    activation: str,
) -> tuple[Tensor, Tensor]:
    """The output, and what enters the activation, (pairs, width), at least fp32."""
    pairs = grouped(chosen, up)
    inner = pairs.gather_dot(x, up, up_bias)
    size = down.shape[1]
    if isinstance(pairs, NativePairs) and activation in ACTIVATIONS:
        hidden = pairs.bent(inner, size, gates, activation)
    else:
        hidden = _neurons(inner, size, activation) * _gates(gates, pairs)
    return pairs.scatter_add(hidden, down), inner


@custom_op("undense::chosen_blocks_backward", mutates_args=())
def _backward(
    grad: Tensor,
    x: Tensor,
    up: Tensor,
    down: Tensor,
    chosen: Tensor,
    gates: Tensor,
    inner: Tensor,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, up, up_bias, down and gates; the activation is computed again."""
    pairs = grouped(chosen, up)
    from_output = pairs.gather_dot(grad, down, None)
    if isinstance(pairs, NativePairs) and activation in ACTIVATIONS:
        found = pairs.bent_backward(from_output, inner, gates, activation)
        hidden, to_inner, grad_gates, grad_bias = found
        grad_down = pairs.outer_sum(hidden, grad)
        grad_x, grad_up = pairs.scatter_add(to_inner, up), pairs.outer_sum(to_inner, x)
        return grad_x, grad_up, grad_bias.to(x.dtype), grad_down, grad_gates.to(gates.dtype)
    size = down.shape[1]
    weight = _gates(gates, pairs)
    hidden = _neurons(inner, size, activation)
    grad_down = pairs.outer_sum(hidden * weight, grad)
    grad_gates = torch.empty_like(gates)
    grad_gates.view(-1)[pairs.order] = (from_output * hidden).sum(1).to(gates.dtype)
    from_output = from_output * weight
    if up.shape[1] == size:
        to_inner = activate_backward(from_output, inner, activation)
    else:
        first, second = inner.split(size, 1)
        through = activate_backward(from_output * second, first, activation)
        to_inner = torch.cat([through, from_output * activate(first, activation)], 1)
    blocks = chosen.flatten().index_select(0, pairs.order)
    grad_bias = inner.new_zeros(up.shape[:2]).index_add_(0, blocks, to_inner).to(x.dtype)
    grad_x = pairs.scatter_add(to_inner, up)
    return grad_x, pairs.outer_sum(to_inner, x), grad_bias, grad_down, grad_gates


def _gates(gates: Tensor, pairs: Pairs) -> Tensor:
    """(pairs, 1), at least fp32."""
    return gates.flatten().index_select(0, pairs.order)[:, None].to(wide(gates.dtype))


def _neurons(inner: Tensor, size: int, activation: str) -> Tensor:
    """Hidden activations, (pairs, size)."""
    if inner.shape[1] == size:
        return activate(inner, activation)
    first, second = inner.split(size, 1)
    return activate(first, activation) * second


@_forward.register_fake
def _(
    x: Tensor,
    up: Tensor,
    up_bias: Tensor | None,
    down: Tensor,
    chosen: Tensor,
    gates: Tensor,
    activation: str,
) -> tuple[Tensor, Tensor]:
    inner = x.new_empty(chosen.numel(), up.shape[1], dtype=wide(x.dtype))
    return torch.empty_like(x), inner


@_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    up: Tensor,
    down: Tensor,
    chosen: Tensor,
    gates: Tensor,
    inner: Tensor,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    bias = up.new_empty(up.shape[:2])
    return tuple(map(torch.empty_like, (x, up, bias, down, gates)))  # type: ignore[return-value]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, up, up_bias, down, chosen, gates, ctx.activation = inputs
    ctx.biased = up_bias is not None
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, up, down, chosen, gates, output[1])


def _go_back(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 7
    x, up, down, chosen, gates, inner = ctx.saved_tensors
    grads = _backward(grad.contiguous(), x, up, down, chosen, gates, inner, ctx.activation)
    grad_x, grad_up, grad_bias, grad_down, grad_gates = grads
    bias = grad_bias if ctx.biased else None
    return grad_x, grad_up, bias, grad_down, None, grad_gates, None


_forward.register_autograd(_go_back, setup_context=_remember)
for _device in ("cpu", "cuda"):
    register_autocast("undense::chosen_blocks", _device, torch.bfloat16)


def chosen_blocks_cost(
    name: str, pairs: int, dim: int, size: int, inner: int, activation: str, *, bias: bool
) -> Cost:
    """What `chosen_blocks` costs for so many pairs of a token and a block; `inner` is the number
    of rows of an `up` block. Weights are left to the caller, who knows how many blocks there are.

    Forward: product and bias, activation, gating, gate, product, sum over the chosen blocks.
    Backward: the two first again where their result is needed, twice the products, the gradient of
    the gates (product and sum), the gates, the activation, the sums for the bias and the input.
    """
    bent = cost.activation("activation", pairs * size, activation)
    branches = inner // size
    multiplies = pairs * dim * (inner + size)
    forward = 2 * multiplies + bent.forward + pairs * (branches * size + dim)
    again = bent.forward * branches + pairs * size * (branches - 1)
    back = bent.backward + pairs * size * (4 + 2 * (branches - 1))
    return Cost(
        name=name,
        forward=forward + pairs * inner * bias,
        backward=4 * multiplies + again + back + pairs * (inner + dim),
        useful=forward + pairs * inner * bias,
        macs=multiplies + bent.macs + pairs * branches * size,
        activations=pairs * (2 * dim + 2 * inner + 2 * size),
    )


@register_flop_formula(torch.ops.undense.chosen_blocks)
def _forward_flops(
    x: Any, up: Any, up_bias: Any, down: Any, chosen: Any, gates: Any, activation: str, **_: Any
) -> int:
    pairs, bias = chosen[0] * chosen[1], up_bias is not None
    counted = chosen_blocks_cost("", pairs, x[1], down[1], up[1], activation, bias=bias)
    return counted.forward


@register_flop_formula(torch.ops.undense.chosen_blocks_backward)
def _backward_flops(
    grad: Any, x: Any, up: Any, down: Any, chosen: Any, gates: Any, inner: Any, activation: str,
    **_: Any,
) -> int:  # fmt: skip
    pairs = chosen[0] * chosen[1]
    return chosen_blocks_cost("", pairs, x[1], down[1], up[1], activation, bias=True).backward
