"""The balance of a router, and how its loss reaches the gradient without any host's help.
Source: https://arxiv.org/abs/2101.03961; injected here, instead of added to the host's loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op
from torch.utils.flop_counter import register_flop_formula

from undense import cost
from undense.cost import Cost


def unevenness(scores: Tensor, chosen: Tensor) -> Tensor:
    """blocks / k * sum over blocks of (share of tokens that chose it) * (its mean probability).

    `scores` (tokens, blocks), `chosen` (tokens, k). 1 where all blocks are chosen alike, up to
    blocks / k where all tokens choose the same; the gradient reaches the probabilities alone.
    """
    picked = torch.zeros_like(scores).scatter(1, chosen, 1.0).mean(0)
    met = (picked * torch.softmax(scores, -1).mean(0)).sum()
    return met * (scores.shape[1] / chosen.shape[1])


def unevenness_cost(name: str, tokens: int, blocks: int) -> Cost:
    """Softmax and two means, product and sum over blocks, the factor; `scores` are read elsewhere
    too. Back, all of it but the mean of what was chosen."""
    scores = tokens * blocks
    softmax, back = (cost.per_element(n) for n in ("softmax", "softmax_backward"))
    return Cost.total(
        name,
        cost.fan_out("scores read twice", scores, 2),
        cost.elementwise("means", scores, forward=softmax + 2, backward=back + 1, macs=1),
        cost.elementwise("over blocks", blocks, forward=2, backward=1),
        cost.elementwise("factor", 1, backward=1),
    )


@custom_op("undense::with_loss", mutates_args=())
def with_loss(x: Tensor, loss: Tensor) -> Tensor:
    """A copy of `x`; whoever goes back through it adds the gradient of `loss` to what they bring.

    A checkpointed forward that the backward pass repeats adds it once: only the repeated one is
    gone back through. The gradient is that of `loss` as it is, whatever the host scales its own
    loss by: it is not divided by a number of accumulation steps, nor scaled by a loss scaler.
    """
    return x.clone()


@with_loss.register_fake
def _(x: Tensor, loss: Tensor) -> Tensor:
    return torch.empty_like(x)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _go_back(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    return grad, torch.ones_like(ctx.saved_tensors[0])


with_loss.register_autograd(_go_back, setup_context=_remember)


@register_flop_formula(torch.ops.undense.with_loss)
def _no_flops(*_: Any, **__: Any) -> int:
    return 0
