"""The whole of micro-refinement as one operation, for inference on a CPU.

Step by step it is some ten operations over memory for a few FLOPs a feature.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from undense import cost
from undense.errors import UndenseError
from undense.kernels.library import address, native

_LIBRARY = torch.library.Library("undense", "FRAGMENT")
_LIBRARY.define(
    "micro_steps(Tensor x, Tensor selected, Tensor into, Tensor shift, Tensor out, Tensor offset)"
    " -> Tensor"
)


def micro_steps(
    x: Tensor, selected: Tensor, into: Tensor, shift: Tensor, out: Tensor, offset: Tensor
) -> Tensor:
    """0 but at `selected`: there sum_s u_s, u_s = silu(into_s (x + sum_(r<s) u_r) + shift_s) out_s
    + offset_s.

    `x` (..., dim), `selected` (features,), the others (steps, features); on a CPU, no gradient.
    """
    return torch.ops.undense.micro_steps(x, selected, into, shift, out, offset)


def _run(x: Tensor, *held: Tensor) -> Tensor:
    steps, features = held[1].shape
    y = x.new_empty(x.shape)
    dim = x.shape[-1]
    given = [tensor.contiguous() for tensor in (x, *held)]
    wrong = native("micro_steps", x.dtype)(
        *(x.numel() // dim, dim, steps, features),
        *map(address, (*given, y)),
        torch.get_num_threads(),
    )
    if wrong >= 0:
        raise UndenseError(
            f"selected feature {held[0][wrong].item()} does not exist; there are {dim}"
        )
    return y


_LIBRARY.impl("micro_steps", _run, "CPU")


@torch.library.register_fake("undense::micro_steps")
def _(x: Tensor, *held: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@register_flop_formula(torch.ops.undense.micro_steps)
def _flops(x: Any, selected: Any, into: Any, shift: Any, out: Any, offset: Any, **_: Any) -> int:
    """A step: product, sum, SiLU, product, sum; from the second on the state and the update too."""
    steps, features = into
    numbers = features * math.prod(x[:-1])
    return numbers * (steps * (cost.per_element("silu") + 4) + 2 * (steps - 1))
