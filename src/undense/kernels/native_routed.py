"""A whole FFN of token-chosen blocks by the compiled library: one call there, one back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from undense.kernels.library import ACTIVATIONS, native

NO_MEMORY = "token-chosen blocks: no memory for what lies between their steps"
NUMBERS = {name: number for number, name in enumerate(ACTIVATIONS)}


class RoutedWeights(NamedTuple):
    """What such an FFN holds; None where a part is not there.

    `first` (1, rank, dim), None for a full router; `last` (1, blocks, rank or dim); `router_bias`
    (blocks); `temperature` (1); `up` (blocks, size or 2 * size, dim), `up_bias` (blocks, the same),
    `down` (blocks, size, dim); `shared_up` (1, shared or 2 * shared, dim), `shared_up_bias`,
    `shared_down` (1, dim, shared); `bias` (dim); `gain` (1), by which the output is multiplied.
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
    gain: Tensor | None


class Kept(NamedTuple):
    """What the way back needs of the way there: `chosen` (tokens, k), and `numbers` in the order of
    `Kept` in common.inc. `imbalance` (): see `unevenness`; empty where no balance is asked for."""

    chosen: Tensor
    numbers: Tensor
    imbalance: Tensor


def routed(x: Tensor, weights: RoutedWeights, k: int, activation: str) -> Tensor:
    """y (..., dim) for `x` (..., dim), on a CPU, `k` blocks a token."""
    return _there(x, weights, k, activation, None)


def routed_kept(
    x: Tensor, weights: RoutedWeights, k: int, activation: str, *, balanced: bool
) -> tuple[Tensor, Kept]:
    """`routed`, and what `routed_backward` needs of it."""
    blocks, size, dim = weights.down.shape
    up, down = weights.up, weights.shared_down
    tokens = x.numel() // dim
    always = 0 if down is None else down.shape[2] * (up.shape[1] // size)
    rank = 0 if weights.first is None else weights.first.shape[1]
    kept = Kept(
        x.new_empty(tokens, k, dtype=torch.int64),
        x.new_empty(tokens * (k + k * up.shape[1] + rank + always + blocks), dtype=torch.float32),
        x.new_empty(() if balanced else 0, dtype=torch.float32),
    )
    return _there(x, weights, k, activation, kept), kept


def routed_backward(
    grad: Tensor,
    x: Tensor,
    weights: RoutedWeights,
    kept: Kept,
    k: int,
    activation: str,
    balance: float,
    wanted: Sequence[bool],
) -> list[Tensor]:
    """The gradients of `x` and the weights, those that are wanted, from that of y; `balance` times
    that of `unevenness` is in them."""
    tensors, sizes, places = _operands(x, weights, k, activation)
    found = [
        torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor, want in zip((x, *weights), wanted, strict=True)
        if want and tensor is not None
    ]
    into = iter(found)
    grad = grad.contiguous()
    failed = native("routed_backward", x.dtype)(
        *sizes,
        *places,
        balance,
        grad.data_ptr(),
        kept.chosen.data_ptr(),
        kept.numbers.data_ptr(),
        *[
            next(into).data_ptr() if want and tensor is not None else None
            for tensor, want in zip(tensors, wanted, strict=True)
        ],
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError(NO_MEMORY)
    return found


def _there(x: Tensor, weights: RoutedWeights, k: int, activation: str, kept: Kept | None) -> Tensor:
    _tensors, sizes, places = _operands(x, weights, k, activation)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    chosen = numbers = imbalance = None
    if kept is not None:
        chosen, numbers = (kept.chosen.data_ptr(), kept.numbers.data_ptr())
        imbalance = kept.imbalance.data_ptr() or None
    failed = native("routed", x.dtype)(
        *sizes, *places, y.data_ptr(), chosen, numbers, imbalance, torch.get_num_threads()
    )
    if failed:
        raise MemoryError(NO_MEMORY)
    return y


def _operands(
    x: Tensor, weights: RoutedWeights, k: int, activation: str
) -> tuple[list[Tensor | None], tuple[int, ...], list[int | None]]:
    """Input and weights, contiguous; the sizes; where the tensors lie, as long as they live."""
    blocks, size, dim = weights.down.shape
    first, down, up = weights.first, weights.shared_down, weights.up
    tensors: list[Tensor | None] = [x, *weights]
    places: list[int | None] = []
    for number, tensor in enumerate(tensors):  # written out: a call for each takes twice as long
        if tensor is None:
            places.append(None)
            continue
        if not tensor.is_contiguous():
            tensor = tensors[number] = tensor.contiguous()
        places.append(tensor.data_ptr())
    sizes = (
        x.numel() // dim,
        dim,
        blocks,
        size,
        k,
        0 if first is None else first.shape[1],
        0 if down is None else down.shape[2],
        int(up.shape[1] != size),
        NUMBERS[activation],
    )
    return tensors, sizes, places
