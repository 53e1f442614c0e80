"""Autocast, and what it must not touch: transforms, long sums, products added in place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def autocasts(x: Tensor) -> bool:
    """Whether products of what lies where `x` does are done in lower precision than asked for."""
    kind = x.device.type
    return kind != "meta" and torch.is_autocast_enabled(kind)


def in_full(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A way back in the precision of what it is given, also where somebody runs it under
    autocast."""

    @functools.wraps(backward)
    def run(ctx: Any, *grads: Tensor) -> Any:
        if not autocasts(grads[0]):
            return backward(ctx, *grads)
        with torch.autocast(grads[0].device.type, enabled=False):
            return backward(ctx, *grads)

    return run
