"""Filters along rows and the gate of a mixer's output by the compiled library, both ways."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from undense.kernels.library import native
from undense.kernels.native_spectral import Word, words


def row_fir(x: Tensor, taps: Tensor) -> Tensor:
    """y_t = sum_j taps_j x_{t - j}: `x` (batch, at least channels, count - 1 + time), of which the
    first rows are filtered, `taps` (channels, count) -> (batch, channels, time)."""
    x, taps = _rows(x), taps.contiguous()
    (channels, count), batch = taps.shape, len(x)
    time = x.shape[2] - count + 1
    y = x.new_empty(batch, channels, time)
    native("row_fir", torch.float32)(
        *(batch, channels, time, count, x.data_ptr(), x.stride(0), x.stride(1)),
        *(taps.data_ptr(), y.data_ptr(), torch.get_num_threads()),
    )
    return y


def row_fir_back(
    grads: Sequence[Tensor], plain: Sequence[Tensor], x: Tensor, taps: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of `x` and of the taps. `grads`, one after the other those of the filtered
    rows, (batch, some channels, time) each; `plain`: those of the rows behind them, unfiltered."""
    x, taps = _rows(x), taps.contiguous()
    count, early = taps.shape[1], taps.shape[1] - 1
    back = torch.empty_like(x, memory_format=torch.contiguous_format)
    for_taps = torch.empty_like(taps)
    first = 0
    for grad in grads:
        batch, channels, time = grad.shape
        here = slice(first, first + channels)
        grad, source, into = grad.contiguous(), x[:, here], back[:, here]
        if native("row_fir_back", torch.float32)(
            *(batch, channels, time, count, grad.data_ptr()),
            *(source.data_ptr(), x.stride(0), x.stride(1), taps[here].data_ptr()),
            *(into.data_ptr(), back.stride(0), back.stride(1), for_taps[here].data_ptr()),
            torch.get_num_threads(),
        ):
            raise MemoryError("filter along rows: no memory for a row")
        first += channels
    for grad in plain:
        into = back[:, first : first + grad.shape[1]]
        into[..., early:] = grad
        into[..., :early] = 0
        first += grad.shape[1]
    return back, for_taps


def gated(
    z: Tensor, summands: Sequence[Tensor], grad: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The summands' sum at unit power times silu(z); with `grad`, the gradients of z and of every
    summand. Shapes: see `unit_gate`."""
    batch, heads, width, chunks, chunk = summands[0].shape
    summands = [part if part.stride(-1) == 1 else part.contiguous() for part in summands]
    missing = 3 - len(summands)
    strides = [stride for part in summands for stride in part.stride()[:4]] + [0] * 4 * missing
    z = z.contiguous()
    out = torch.empty_like(z)
    for_sum = None
    if grad is not None:
        grad, for_sum = grad.contiguous(), z.new_empty(summands[0].shape)
    given: list[Word] = [
        *(batch, heads, width, chunks, chunk, len(summands), *summands, *[None] * missing),
        *(*strides, z, grad, out, for_sum),
    ]
    if native("gated", torch.float32)(words(given), torch.get_num_threads()):
        raise MemoryError("gate of the output: no memory for a head")
    return out, for_sum


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(2) == 1 else x.contiguous()
