"""The projections around what mixes: by their weights where calling them is no more than that.

Where it is more (an adapter around the linear map, weights of few bits, hooks) they are called.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undense.kernels.held import plain
from undense.ops.drive import convolved, drive


def inward(
    linear: nn.Module, x: Tensor, taps: Tensor, seen: list[int], unseen: list[int], exact: bool
) -> tuple[Tensor, ...]:
    """As `drive`, of `linear`."""
    if not plain(linear, nn.Linear):
        return convolved(linear(x).mT.to(taps.dtype), taps, seen, unseen)
    assert isinstance(linear, nn.Linear)
    weight = linear.weight
    return drive(x.to(weight.dtype), weight, taps, seen, unseen, exact)


def outward(linear: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    """(batch, width, time) through `linear`, to (batch, time, width) in `dtype`."""
    if not plain(linear, nn.Linear):
        return linear(x.mT.to(dtype)).to(dtype)
    assert isinstance(linear, nn.Linear)
    weight = linear.weight.T.expand(len(x), -1, -1)
    return torch.bmm(x.to(weight.dtype).mT, weight).to(dtype)


def along(linear: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    """The linear map over the channels of (batch, channels, time), in the dtype of `x`; `dtype`:
    of the model."""
    if not plain(linear, nn.Linear):
        return linear(x.mT.to(dtype)).mT.to(x.dtype)
    assert isinstance(linear, nn.Linear)
    weight = linear.weight.to(x.dtype).expand(len(x), -1, -1)
    return torch.bmm(weight, x) + linear.bias[:, None]
