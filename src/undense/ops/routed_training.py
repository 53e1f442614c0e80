"""The FFN of token-chosen blocks as one operation with its way back, for training on a CPU.

Step by step, a training step is some eighty operations of torch, most of which take longer to
start than to run; here are two calls of compiled code. What they compute is what `BlockTopK`
computes step by step elsewhere, the balance of the router included (`ops/auxiliary.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op
from torch.utils.flop_counter import register_flop_formula

from undense.kernels.library import unwatched
from undense.kernels.native_routed import Kept, RoutedWeights, routed_backward, routed_kept
from undense.ops.routed_blocks import OPERANDS, routed_cost

COUNT = 1 + len(RoutedWeights._fields)


def trained_blocks(
    x: Tensor, weights: RoutedWeights, k: int, activation: str, balance: float
) -> tuple[Tensor, Tensor]:
    """`routed_blocks` of `x` (..., dim) with gradients, and the unevenness of the choice.

    `balance` times the gradient of the unevenness joins whatever comes back; with 0 it is not
    computed, and the second result is empty. There is no second derivative.
    """
    if unwatched(x, weights):
        return _Direct.apply(x, *weights, k, activation, balance)  # type: ignore[return-value]
    y, _, _, imbalance = _forward(x, *weights, k, activation, balance)
    return y, imbalance.detach()


@custom_op(
    "undense::trained_blocks",
    mutates_args=(),
    schema=f"({OPERANDS}, int k, str activation, float balance)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)
def _forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *weights, k, activation, balance = rest
    y, kept = routed_kept(x, RoutedWeights(*weights), k, activation, balanced=balance > 0)
    return y, kept.chosen, kept.numbers, kept.imbalance


@custom_op(
    "undense::trained_blocks_backward",
    mutates_args=(),
    schema=f"(Tensor grad, {OPERANDS}, Tensor chosen, Tensor numbers, int k, str activation,"
    " float balance, bool[] wanted) -> Tensor[]",
)
def _backward(grad: Tensor, x: Tensor, *rest: Any) -> list[Tensor]:
    *weights, chosen, numbers, k, activation, balance, wanted = rest
    kept = Kept(chosen, numbers, numbers)
    return routed_backward(grad, x, RoutedWeights(*weights), kept, k, activation, balance, wanted)


@_forward.register_fake
def _(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *weights, k, _, balance = rest
    held = RoutedWeights(*weights)
    tokens, blocks = (x.numel() // x.shape[-1], held.last.shape[1])
    rank = 0 if held.first is None else held.first.shape[1]
    always = 0 if held.shared_up is None else held.shared_up.shape[1]
    numbers = k + k * held.up.shape[1] + rank + always + blocks
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        x.new_empty(tokens, k, dtype=torch.int64),
        x.new_empty(tokens * numbers, dtype=torch.float32),
        x.new_empty(() if balance > 0 else 0, dtype=torch.float32),
    )


@_backward.register_fake
def _(grad: Tensor, *rest: Any) -> list[Tensor]:
    operands, wanted = rest[:COUNT], rest[-1]
    return [
        torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor, want in zip(operands, wanted, strict=True)
        if want and tensor is not None
    ]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *operands, k, activation, balance = inputs
    ctx.rest = (k, activation, balance)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*operands, output[1], output[2])


def _go_back(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    found: list[Tensor | None] = [None] * (COUNT + 3)
    if grad is None:
        return tuple(found)
    x, *weights, chosen, numbers = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:COUNT]
    # where a second derivative is asked for, the operation says that there is none
    if not torch.is_grad_enabled() and unwatched(grad, ()):
        kept = Kept(chosen, numbers, numbers)
        k, activation, balance = ctx.rest
        held = RoutedWeights(*weights)
        grads = routed_backward(grad, x, held, kept, k, activation, balance, wanted)
    else:
        grads = _backward(grad, x, *weights, chosen, numbers, *ctx.rest, list(wanted))
    into = iter(grads)
    for place, want in enumerate(wanted):
        if want:
            found[place] = next(into)
    return tuple(found)


_forward.register_autograd(_go_back, setup_context=_remember)


class _Direct(torch.autograd.Function):
    """The operation without the dispatcher."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        *weights, k, activation, balance = rest
        y, kept = routed_kept(x, RoutedWeights(*weights), k, activation, balanced=balance > 0)
        _remember(ctx, (x, *rest), (y, *kept))
        ctx.mark_non_differentiable(kept.imbalance)
        return y, kept.imbalance

    backward = staticmethod(_go_back)


@register_flop_formula(torch.ops.undense.trained_blocks)
def _forward_flops(*given: Any, **_: Any) -> int:
    *operands, k, activation, balance = given
    return routed_cost(operands, k, activation, balanced=balance > 0).forward


@register_flop_formula(torch.ops.undense.trained_blocks_backward)
def _backward_flops(*given: Any, **_: Any) -> int:
    _grad, *operands, _chosen, _numbers, k, activation, balance, _wanted = given
    return routed_cost(operands, k, activation, balanced=balance > 0).backward
