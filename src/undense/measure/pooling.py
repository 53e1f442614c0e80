"""Work of pooling and resampling: one FLOP for each number that enters a window.

The division of a mean is one a result and left out, as in every reduction. On the way back what a
window spread is added to its places; a maximum sends its gradient to one place only.
"""

from __future__ import annotations

from math import prod

from undense.cost import Work
from undense.measure.call import Call, Formula
from undense.measure.products import additions


def _window(call: Call, dims: int) -> int:
    size = call["kernel_size"]
    return prod(size) if len(size) > 1 else size[0] ** dims


def windows(dims: int) -> Formula:
    """Every number of the output sums, or compares, one window."""

    def formula(call: Call) -> Work:
        return Work(call.result.numel() * _window(call, dims))

    return formula


def windows_backward(dims: int) -> Formula:
    """Every number of the gradient is added to one window."""

    def formula(call: Call) -> Work:
        return Work(call["grad_output"].numel() * _window(call, dims))

    return formula


def adaptive(call: Call) -> Work:
    """Windows that divide the input read each of its numbers once."""
    return Work(call["self"].numel())


def adaptive_backward(call: Call) -> Work:
    return Work(call.result.numel())


def spread(call: Call) -> Work:
    """Every number of the gradient is added to its one place."""
    return additions(call["grad_output"].numel(), call["grad_output"])


FORMULAS: dict[str, Formula] = {
    **{f"aten.avg_pool{dims}d": windows(dims) for dims in (2, 3)},
    **{f"aten.avg_pool{dims}d_backward": windows_backward(dims) for dims in (2, 3)},
    **{f"aten.max_pool{dims}d_with_indices": windows(dims) for dims in (2, 3)},
    **{f"aten.max_pool{dims}d_with_indices_backward": spread for dims in (2, 3)},
    **{f"aten._adaptive_avg_pool{dims}d": adaptive for dims in (2, 3)},
    **{f"aten._adaptive_avg_pool{dims}d_backward": adaptive_backward for dims in (2, 3)},
    **{f"aten.adaptive_max_pool{dims}d": adaptive for dims in (2, 3)},
    **{f"aten.adaptive_max_pool{dims}d_backward": spread for dims in (2, 3)},
    **{
        f"aten.{kind}{dims}d_backward": spread
        for kind in ("upsample_nearest", "_upsample_nearest_exact")
        for dims in (1, 2, 3)
    },
}
