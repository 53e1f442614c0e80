"""Numbers that count the arithmetic done with them: the brute force behind the tests of costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable


class Tally:
    """FLOPs so far. One for each operation on a `Number`, whatever the operation."""

    def __init__(self) -> None:
        self.flops = 0

    def numbers(self, values: Iterable[float]) -> list[Number]:
        return [Number(value, self) for value in values]


class Number:
    """A float that reports every operation to its tally."""

    def __init__(self, value: float, tally: Tally) -> None:
        self.value = value
        self.tally = tally

    def _made(self, value: float) -> Number:
        self.tally.flops += 1
        return Number(value, self.tally)

    def __add__(self, other: Number | float) -> Number:
        return self._made(self.value + plain(other))

    def __sub__(self, other: Number | float) -> Number:
        return self._made(self.value - plain(other))

    def __rsub__(self, other: float) -> Number:
        return self._made(other - self.value)

    def __mul__(self, other: Number | float) -> Number:
        return self._made(self.value * plain(other))

    def __truediv__(self, other: Number | float) -> Number:
        return self._made(self.value / plain(other))

    def __rtruediv__(self, other: float) -> Number:
        return self._made(other / self.value)

    def __neg__(self) -> Number:
        return self._made(-self.value)

    def __gt__(self, other: Number | float) -> bool:
        self.tally.flops += 1
        return self.value > plain(other)

    __radd__ = __add__
    __rmul__ = __mul__


def plain(x: Number | float) -> float:
    return x.value if isinstance(x, Number) else x


def _function(of: Callable[[float], float]) -> Callable[[Number], Number]:
    return lambda x: x._made(of(x.value))


exp = _function(math.exp)
log = _function(math.log)
log1p = _function(math.log1p)
tanh = _function(math.tanh)
erf = _function(math.erf)
sqrt = _function(math.sqrt)


def total(values: Iterable[Number]) -> Number:
    """One addition for each number read."""
    first, *rest = values
    sum_ = first + 0.0
    for value in rest:
        sum_ = sum_ + value
    return sum_


def largest(values: Iterable[Number]) -> float:
    """One comparison for each number read."""
    best = -math.inf
    for value in values:
        if value > best:
            best = value.value
    return best
