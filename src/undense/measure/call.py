"""One executed operation as a formula sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from undense.cost import Work


class Call:
    """An operation with its arguments by their schema's names, and what it returned."""

    __slots__ = ("args", "kwargs", "op", "out")

    def __init__(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        self.op = op
        self.args = args
        self.kwargs = kwargs
        self.out = out

    def __getitem__(self, name: str) -> Any:
        """The argument called `name`, or its default; KeyError where this overload has none."""
        place, default = _places(self.op)[name]
        if place < len(self.args):
            return self.args[place]
        return self.kwargs.get(name, default)

    def get(self, name: str) -> Any:
        """The argument called `name`, or None where this overload has none."""
        return self[name] if name in _places(self.op) else None

    @property
    def result(self) -> Tensor:
        """The first tensor that the operation returned."""
        return next(tensors(self.out))

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor among the arguments."""
        yield from tensors((self.args, tuple(self.kwargs.values())))


Formula = Callable[[Call], Work | None]
"""Work of a call; None where the formula does not cover these arguments (then: uncounted)."""


@cache
def _places(op: Any) -> dict[str, tuple[int, Any]]:
    return {
        argument.name: (place, argument.default_value if argument.has_default_value() else None)
        for place, argument in enumerate(op._schema.arguments)
    }


@cache
def op_name(op: Any) -> str:
    """`aten.add` for every overload of `aten::add` and for its in-place form."""
    name = str(op._schema.name).replace("::", ".")
    return name if name.endswith("__") else name.removesuffix("_")


def tensors(values: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples and lists, in order."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from tensors(value)


def stored(x: Tensor) -> int:
    """How many numbers `x` stores: all of them, or only the non-zeros of a sparse layout."""
    if x.layout == torch.strided:
        return x.numel()
    if x.layout == torch.sparse_coo:
        return x._values().numel()
    return x.values().numel()


def is_sparse(x: Tensor) -> bool:
    """Whether `x` stores its non-zeros only."""
    return x.layout != torch.strided


def is_real_number(x: Tensor) -> bool:
    """Whether `x` holds numbers that FLOPs are counted for; integers and booleans are not."""
    return x.is_floating_point() or x.is_complex()
