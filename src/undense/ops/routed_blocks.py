"""The FFN of token-chosen blocks as one operation, for inference on a CPU.

At a few tokens the time of a small FFN goes into starting operations: here is one in place of some
twenty. What it computes is what `BlockTopK` computes step by step when gradients are wanted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from undense import cost
from undense.cost import Cost
from undense.kernels.held import all_held, held, plain, within
from undense.kernels.library import unwatched
from undense.kernels.native_routed import RoutedWeights, routed
from undense.ops.auxiliary import unevenness_cost
from undense.ops.block_linear import BlockLinear
from undense.ops.chosen_blocks import chosen_blocks_cost
from undense.ops.low_rank import LowRankLinear

_LIBRARY = torch.library.Library("undense", "FRAGMENT")
LINEAR, OWN = ("weight", "bias"), ("temperature", "up", "up_bias", "down", "bias")
# The operands, in the order of `RoutedWeights`.
OPERANDS = (
    "Tensor x, Tensor? first, Tensor last, Tensor? router_bias, Tensor temperature, Tensor up,"
    " Tensor? up_bias, Tensor down, Tensor? shared_up, Tensor? shared_up_bias, Tensor? shared_down,"
    " Tensor? bias, Tensor? gain"
)
_LIBRARY.define(f"routed_blocks({OPERANDS}, int k, str activation) -> Tensor")


def routed_blocks(x: Tensor, weights: RoutedWeights, k: int, activation: str) -> Tensor:
    """y = gain * (shared(x) + sum over k blocks b of gate_b down_b^T act(up_b x + bias_b) + bias).

    `x` (..., dim); on a CPU, without gradient; `activation` one of ACTIVATIONS.
    """
    if unwatched(x, weights):
        return routed(x, weights, k, activation)
    return torch.ops.undense.routed_blocks(x, *weights, k, activation)


def routed_weights(own: nn.Module, gain: Tensor | None) -> RoutedWeights | None:
    """What the operation reads in place of calling the maps within; None where they have to be
    called, and where `gain` is not one number. `own` has `router`, `temperature`, `up`, `up_bias`,
    `down`, `bias` and, or not, `shared_up`, `shared_down`; `gain` (1) multiplies what it puts out.
    """
    if gain is not None and gain.numel() != 1:
        return None
    first, last = (None, within(own, "router"))
    up, down = (within(own, "shared_up"), within(own, "shared_down"))
    if isinstance(last, LowRankLinear) and plain(last, LowRankLinear):
        first, last = (within(last, "first"), within(last, "last"))
    for linear in (first, last, up, down):
        if not plain(linear, BlockLinear):
            return None
    router, router_bias = all_held(last, LINEAR)
    temperature, blocks_up, up_bias, blocks_down, bias = all_held(own, OWN)
    shared_up, shared_bias = all_held(up, LINEAR)
    assert router is not None and temperature is not None
    assert blocks_up is not None and blocks_down is not None
    return RoutedWeights(
        held(first, "weight"),
        router,
        router_bias,
        temperature,
        blocks_up,
        up_bias,
        blocks_down,
        shared_up,
        shared_bias,
        held(down, "weight"),
        bias,
        gain,
    )


def _run(x: Tensor, *rest: Any) -> Tensor:
    *weights, k, activation = rest
    return routed(x, RoutedWeights(*weights), k, activation)


_LIBRARY.impl("routed_blocks", _run, "CPU")


@torch.library.register_fake("undense::routed_blocks")
def _(x: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def routed_cost(
    operands: Sequence[Any], k: int, activation: str, *, balanced: bool = False
) -> Cost:
    """What the steps cost in whose place it stands, from the shapes of the operands."""
    x, first, last, router_bias, _, up, up_bias, down, *rest = operands
    shared_up, shared_up_bias, shared_down, bias, gain = rest
    dim, tokens = (x[-1], math.prod(x[:-1]))
    blocks, size, _ = down
    multiplied = [last] if first is None else [first, last]
    softmax, back = (cost.per_element(n) for n in ("softmax", "softmax_backward"))
    parts = [
        cost.fan_out("input read twice", tokens * dim, 2),
        *(
            cost.block_linear("router", tokens, 1, fan_in, fan_out, bias=False)
            for _, fan_out, fan_in in multiplied
        ),
        cost.elementwise("choice", tokens * blocks),
        cost.gain("temperature", tokens, k, size=1),
        cost.elementwise("gates", tokens * k, forward=softmax + 1, backward=back + 1),
        chosen_blocks_cost(
            "blocks", tokens * k, dim, size, up[1], activation, bias=up_bias is not None
        ),
    ]
    if router_bias is not None:
        parts.append(cost.elementwise("router bias", tokens * blocks, backward=1))
    if balanced:
        parts.append(unevenness_cost("balance", tokens, blocks))
        parts.append(cost.elementwise("strength", 1, backward=1))
    if shared_down is not None:
        always = shared_down[2]
        parts += [
            cost.fan_out("input read again", tokens * dim, 2),
            cost.block_linear("up", tokens, 1, dim, shared_up[1], bias=shared_up_bias is not None),
            cost.activation("activation", tokens * always, activation),
            cost.product("gating", tokens * (shared_up[1] - always)),
            cost.block_linear("down", tokens, 1, always, dim, bias=False),
            cost.add("add", tokens * dim),
        ]
    if bias is not None:
        parts.append(cost.elementwise("bias", tokens * dim, backward=1))
    if gain is not None:
        parts.append(cost.gain("gain", tokens, dim, size=1))
    return Cost.total("token-chosen blocks", *parts)


@register_flop_formula(torch.ops.undense.routed_blocks)
def _flops(*given: Any, **_: Any) -> int:
    *operands, k, activation = given
    return routed_cost(operands, k, activation).forward
