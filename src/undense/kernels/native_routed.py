"""A whole FFN of token-chosen blocks by the compiled library: for inference, in one call."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from undense.kernels.library import ACTIVATIONS, native

NUMBERS = {name: number for number, name in enumerate(ACTIVATIONS)}


class RoutedWeights(NamedTuple):
    """What such an FFN holds; None where a part is not there.

    `first` (1, rank, dim), None for a full router; `last` (1, blocks, rank or dim); `router_bias`
    (blocks); `temperature` (1); `up` (blocks, size or 2 * size, dim), `up_bias` (blocks, the same),
    `down` (blocks, size, dim); `shared_up` (1, shared or 2 * shared, dim), `shared_up_bias`,
    `shared_down` (1, dim, shared); `bias` (dim).
    """

    first: Tensor | None
    last: Tensor
    router_bias: Tensor | None
    temperature: Tensor
    up: Tensor
    up_bias: Tensor | None
    down: Tensor
    shared_up: Tensor | None
    shared_up_bias: Tensor | None
    shared_down: Tensor | None
    bias: Tensor | None


def routed(x: Tensor, weights: RoutedWeights, k: int, activation: str) -> Tensor:
    """y (..., dim) for `x` (..., dim), on a CPU, `k` blocks a token."""
    blocks, size, dim = weights.down.shape
    first, down, up = weights.first, weights.shared_down, weights.up
    kept: list[Tensor | None] = [x, *weights]
    places: list[int | None] = []
    for number, tensor in enumerate(kept):  # written out: a call for each takes twice as long
        if tensor is None:
            places.append(None)
            continue
        if not tensor.is_contiguous():
            tensor = kept[number] = tensor.contiguous()
        places.append(tensor.data_ptr())
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    failed = native("routed", x.dtype)(
        x.numel() // dim,
        dim,
        blocks,
        size,
        k,
        0 if first is None else first.shape[1],
        0 if down is None else down.shape[2],
        up.shape[1] != size,
        NUMBERS[activation],
        *places,
        y.data_ptr(),
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError("token-chosen blocks: no memory for what lies between their steps")
    return y
