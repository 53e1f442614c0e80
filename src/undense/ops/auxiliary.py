"""Losses of parts of a model that reach the whole model's gradient without any host's help."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op
from torch.utils.flop_counter import register_flop_formula


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
