"""Products with weights that are zero: dispatched at full price, of no use.

A weight is a parameter or buffer of the modules that are called, or what is computed from such
alone (a parameter times its mask). Zeros in activations are not looked at, and neither are weights
without numbers (on the meta device).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undense.cost import Work
from undense.measure.call import Call, op_name, tensors

# Operations whose every weight enters the same number of products -> the operands to look at,
# the likelier weight first.
_OPERANDS: dict[str, tuple[str, ...]] = {
    "aten.mm": ("mat2", "self"),
    "aten.bmm": ("mat2", "self"),
    "aten.addmm": ("mat2", "mat1"),
    "aten.baddbmm": ("batch2", "batch1"),
    "aten.mv": ("self", "vec"),
    "aten.addmv": ("mat", "vec"),
    "aten.convolution": ("weight",),
}


class Weights:
    """Which memory holds weights."""

    def __init__(self) -> None:
        self._memory: set[int] = set()

    def hold(self, module: nn.Module) -> None:
        """A module is called: its parameters and buffers are weights."""
        for x in (*module.parameters(), *module.buffers()):
            if _has_numbers(x):
                self._memory.add(_identity(x))

    def follow(self, call: Call) -> None:
        """What comes out of weights alone is a weight; any other result is none (any more)."""
        if not self._memory:
            return
        inputs = [*call.tensors()]
        derived = bool(inputs) and all(self._is_weight(x) for x in inputs)
        for out in tensors(call.out):
            if not _has_numbers(out):
                continue
            if derived:
                self._memory.add(_identity(out))
            elif not any(_has_numbers(x) and _identity(x) == _identity(out) for x in inputs):
                self._memory.discard(_identity(out))

    def idle(self, call: Call, work: Work) -> int:
        """FLOPs of the call that are a product with a weight of zero, its addition included."""
        for name in _OPERANDS.get(op_name(call.op), ()):
            x = call[name]
            if self._is_weight(x) and x.numel():
                zeros = x.numel() - int(torch.count_nonzero(x))
                return 2 * work.macs * zeros // x.numel()
        return 0

    def _is_weight(self, x: Tensor) -> bool:
        return _has_numbers(x) and _identity(x) in self._memory


def _has_numbers(x: Tensor) -> bool:
    """Strided and really there; a subclass of Tensor keeps its numbers elsewhere."""
    return type(x) in (Tensor, nn.Parameter) and x.layout == torch.strided and not x.is_meta


def _identity(x: Tensor) -> int:
    return x.untyped_storage()._cdata
