"""Projections and the short causal convolution behind them, in one pass each way.

P = W x^T, time last; a row of P that is convolved becomes y_t = sum_{j < taps} c_j P_{t - j}. By
autograd's own operations this would copy the rows several times; here the convolution runs in the
processor's cache, a few rows at a time, and the way back writes into the gradient of P directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

from undense import cost
from undense.cost import Cost
from undense.ops.full_precision import in_full
from undense.ops.row_fir import compiled

# Numbers of one block of rows, so that a block, its source and its gradient stay in a 2 MB cache.
BLOCK = 1 << 17


def drive(
    x: Tensor, weight: Tensor, taps: Tensor, seen: list[int], unseen: list[int], exact: bool
) -> tuple[Tensor, ...]:
    """`x` (batch, taps - 1 + time, dim), `weight` (sum of all sizes, dim), `taps` (sum of `seen`,
    taps) -> (batch, size, time) in the dtype of `taps` for each size: those that the convolution
    has seen, then those that it has not. `exact`: the last of these is summed in fp64 and rounded
    once, so that it does not depend on how many tokens are multiplied together; not in half
    precision, which has lost more before. Its gradient is made as any."""
    return _Drive.apply(x, weight, taps, seen, unseen, exact and weight.dtype == torch.float32)


def convolved(
    whole: Tensor, taps: Tensor, seen: list[int], unseen: list[int]
) -> tuple[Tensor, ...]:
    """The same of given projections, (batch, sum of all sizes, taps - 1 + time)."""
    early = taps.shape[1] - 1
    time = whole.shape[2] - early
    mixed, rest = whole.split([len(taps), whole.shape[1] - len(taps)], 1)
    lagged = [
        mixed[..., early - j : early - j + time] * taps[:, j : j + 1] for j in range(early + 1)
    ]
    return (*sum(lagged[1:], lagged[0]).split(seen, 1), *rest[..., early:].split(unseen, 1))


class _Drive(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        taps: Tensor,
        seen: list[int],
        unseen: list[int],
        exact: bool,
    ) -> tuple[Tensor, ...]:
        early, dtype = taps.shape[1] - 1, taps.dtype
        time = x.shape[1] - early
        others = len(weight) - unseen[-1] * exact
        whole = _product(weight[:others], x).to(dtype)
        ctx.save_for_backward(x, weight, taps, whole)
        ctx.sizes = seen, unseen[: len(unseen) - exact]
        rest = [*whole[:, len(taps) :, early:].split(ctx.sizes[1], 1)]
        if exact:
            rest.append(_product(weight[others:].double(), x.double())[..., early:].to(dtype))
        if compiled(whole):
            return (*torch.ops.undense.row_fir(whole, taps, 0).split(seen, 1), *rest)
        mixed = whole[:, : len(taps), early:] * taps[:, :1]
        for rows in _blocks(len(taps), len(x) * time):
            part = mixed[:, rows]
            for j in range(1, early + 1):
                part.addcmul_(whole[:, rows, early - j : early - j + time], taps[rows, j : j + 1])
        return (*mixed.split(seen, 1), *rest)

    @staticmethod
    @once_differentiable
    @in_full
    def backward(  # type: ignore[override]  (as the decorator leaves it)
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, weight, taps, whole = ctx.saved_tensors
        seen, unseen = ctx.sizes
        together = grad_outputs[: len(seen) + len(unseen)]
        if compiled(whole):
            grads, plain = list(together[: len(seen)]), list(together[len(seen) :])
            back, for_taps = torch.ops.undense.row_fir_back(grads, plain, whole, taps, 0)
        else:
            back, for_taps = _convolution_back(together, whole, taps, seen, unseen)
        if whole.shape[1] < len(weight):
            exact = nn.functional.pad(grad_outputs[-1], (taps.shape[1] - 1, 0))
            back = torch.cat([back, exact], 1)
        back = back.to(weight.dtype)
        for_weight = torch.bmm(back, x).sum(0)
        back = torch.bmm(back.mT, weight.expand(len(x), -1, -1))
        return back, for_weight, for_taps, *[None] * 3


def _product(weight: Tensor, x: Tensor) -> Tensor:
    return torch.bmm(weight.expand(len(x), -1, -1), x.mT)


def _convolution_back(
    grads: Sequence[Tensor], whole: Tensor, taps: Tensor, seen: list[int], unseen: list[int]
) -> tuple[Tensor, Tensor]:
    """The gradients of all projections and of the taps."""
    early, batch = taps.shape[1] - 1, len(whole)
    time = whole.shape[2] - early
    back = torch.empty_like(whole)
    back[..., :early] = 0
    for_taps = torch.zeros_like(taps)
    first = 0
    for size, grad in zip(seen, grads, strict=False):
        for rows in _blocks(size, batch * time):
            part, here = grad[:, rows], slice(first + rows.start, first + rows.stop)
            back[:, here, early:] = part * taps[here, :1]
            for j in range(early + 1):
                span = slice(early - j, early - j + time)
                if j:
                    back[:, here, span].addcmul_(part, taps[here, j : j + 1])
                for_taps[here, j] = (part * whole[:, here, span]).sum((0, 2))
        first += size
    for size, grad in zip(unseen, grads[len(seen) :], strict=True):
        back[:, first : first + size, early:] = grad
        first += size
    return back, for_taps


def drive_cost(
    name: str, batch: int, time: int, dim: int, taps: int, seen: int, unseen: int
) -> Cost:
    """The product, and a multiply-add a tap (the first a product). Back: two products and the sum
    of the weight's gradient over rows; for each tap a multiply-add (the first a
    product), a product and its sum."""
    columns, numbers = batch * (time + taps - 1), batch * seen * time
    product = cost.linear("product", columns, dim, seen + unseen, bias=False)
    return Cost.total(
        name,
        product,
        cost.elementwise("weight gradient", batch * (seen + unseen) * dim, forward=0, backward=1),
        cost.elementwise(
            "short convolution",
            numbers,
            forward=2 * taps - 1,
            backward=4 * taps - 1,
            macs=taps,
        ),
    )


def _blocks(rows: int, columns: int) -> list[slice]:
    size = max(1, BLOCK // columns)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
