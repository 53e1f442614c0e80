"""Is a component right, on the very input that it is about to be timed on? Held against fp64.

The reference is the same module in fp64, which takes its plain path. Only some rows are compared,
but the call is the whole one, of the size and type that will be timed: a kernel chosen by size is
the kernel that is checked. For the way back the gradient that comes in is zero but for those rows,
so that the gradients of every parameter follow from them alone.

A component that chooses (blocks, terms, frequencies) may choose otherwise in fp64 where two scores
are closer than a rounding. Such a row is right if it is what fp64 gives for that row moved by a few
roundings; a row of a wrong result is near none of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from undense.contract import FFNComponent

ROWS = 48
ATTEMPTS = 48
# Relative errors of a row (norm over norm). fp32: sums of up to 16 K products, each rounded to
# 6e-8, and a reciprocal square root or two. bf16: 8 bits, a rounding at each of about ten steps.
ROW_BOUND = {torch.float32: 1e-4, torch.bfloat16: 4e-2}
# The same of a parameter's gradient: it sums rows whose terms cancel.
GRADIENT_BOUND = {torch.float32: 2e-3, torch.bfloat16: 1.5e-1}

Step = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, tuple[Tensor | None, ...]]]


@dataclass(frozen=True, kw_only=True)
class Check:
    """`forward`: the largest relative error of a row; `backward`: of a gradient, None where no way
    back was asked for. `moved`: rows that had to be moved by roundings to choose alike."""

    forward: float
    backward: float | None
    moved: int
    ok: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is not a finite number becomes text."""
        shown = {"forward": self.forward, "backward": self.backward}
        plain = {
            name: value if value is None or value < float("inf") else str(value)
            for name, value in shown.items()
        }
        return plain | {"moved": self.moved, "ok": self.ok}


def forward_and_back(
    call: Callable[[Tensor], Tensor], ends: list[Tensor], x: Tensor, received: Tensor
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The output of `call(x)`, and the gradients of `ends` when `received` arrives there."""
    y = call(x)
    if not y.requires_grad:  # no FFN at all
        return y, (None,) * len(ends)
    return y, torch.autograd.grad(y, ends, received, allow_unused=True)


def check(
    module: FFNComponent,
    x: Tensor,
    *,
    training: bool,
    call: Callable[[Tensor], Tensor] | None = None,
) -> Check:
    """Hold `call` (by default the module itself) against the module in fp64, on `x`.

    `x`: (1, tokens, dim), in the module's type. `training`: check the gradients of the input and
    of every parameter too.
    """
    call = call or module
    rows = _rows(x.shape[1], spread=module.config.token_local)
    exact = copy.deepcopy(module).double()
    part = x[:, rows].double()
    received = torch.zeros_like(x)
    received[:, rows] = torch.randn(1, len(rows), x.shape[2]).to(x)
    got_back: tuple[Tensor | None, ...] = ()
    if training:
        x = x.detach().requires_grad_()
        ends = [x, *module.parameters()]
        y, got_back = forward_and_back(call, ends, x, received)
    else:
        with torch.no_grad():
            y = call(x)
    got = y.detach()[0, rows].double()
    bound = ROW_BOUND[x.dtype]
    nearest, errors, moved = _nearest(exact, part, got, bound, torch.finfo(x.dtype).eps)
    forward = _largest(errors)
    if not training:
        return Check(forward=forward, backward=None, moved=moved, ok=forward <= bound)
    start = nearest.requires_grad_()
    ends = [start, *exact.parameters()]
    _, wanted = forward_and_back(exact, ends, start, received[:, rows].double())
    backward = _gradients(rows, got_back, wanted)
    ok = forward <= bound and backward <= GRADIENT_BOUND[x.dtype]
    return Check(forward=forward, backward=backward, moved=moved, ok=ok)


def _rows(tokens: int, *, spread: bool) -> Tensor:
    """Which rows are compared: from everywhere, or, where rows see earlier ones, the first."""
    if tokens <= ROWS or not spread:
        return torch.arange(min(tokens, ROWS))
    return torch.linspace(0, tokens - 1, ROWS).long()


def _nearest(
    exact: nn.Module, x: Tensor, got: Tensor, bound: float, step: float
) -> tuple[Tensor, Tensor, int]:
    """`x` with the rows moved whose results fit better so; the errors that are left, by row; how
    many rows were moved."""
    with torch.no_grad():
        errors = _row_errors(got, exact(x)[0])
        best = x.clone()
        moved = torch.zeros(len(got), dtype=torch.bool, device=got.device)
        for attempt in range(ATTEMPTS):
            bad = ~(errors <= bound)
            if not bad.any() or not got.isfinite().all():
                break
            size = step * (1, 2, 4)[attempt % 3]
            other = torch.where(bad[:, None], x * (1 + size * torch.randn_like(x)), best)
            now = _row_errors(got, exact(other)[0])
            better = bad & (now < errors)
            best[0, better] = other[0, better]
            errors = torch.where(better, now, errors)
            moved |= better
    return best, errors, int(moved.sum())


def _row_errors(got: Tensor, wanted: Tensor) -> Tensor:
    """|got - wanted| / |wanted| of every row; a row much smaller than the others by their size."""
    sizes = wanted.norm(dim=-1)
    scale = torch.maximum(sizes, 0.1 * sizes.mean())
    difference = (got - wanted).norm(dim=-1)
    return torch.where(difference == 0, 0.0, difference / scale)


def _gradients(
    rows: Tensor, got: tuple[Tensor | None, ...], wanted: tuple[Tensor | None, ...]
) -> float:
    """The largest relative error of a gradient. One whose numbers are much smaller than those of
    the others is held against their size: its own sum cancelled. So is a single number, such as a
    gate, which sums over everything (seen in bf16: errors of half its own size, a thirtieth of
    theirs)."""
    errors = [0.0]
    pairs = []
    for place, (one, other) in enumerate(zip(got, wanted, strict=True)):
        if one is None and other is None:
            continue
        if one is None or other is None:
            return float("inf")
        pairs.append((one[0, rows] if place == 0 else one, other[0] if place == 0 else other))
    typical = max((w.square().mean().sqrt().item() for _, w in pairs), default=0.0)
    for one, other in pairs:
        floor = typical * (1.0 if other.numel() == 1 else 0.02 * other.numel() ** 0.5)
        scale = max(other.norm().item(), floor)
        error = (one.double() - other).norm().item()
        errors.append(0.0 if error == 0 else error / scale if scale else float("inf"))
    return _largest(torch.tensor(errors))


def _largest(errors: Tensor) -> float:
    """The maximum; NaN counts as infinitely wrong."""
    return errors.nan_to_num(float("inf"), posinf=float("inf")).max().item()
