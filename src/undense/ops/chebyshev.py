"""Chebyshev polynomials of the first kind, by their three-term recurrence."""

from __future__ import annotations

from torch import Tensor

from undense import cost
from undense.cost import Cost


def chebyshev(x: Tensor, degree: int) -> Tensor:
    """T_degree(x) for every number of `x` in [-1, 1]; T_0 = 1, T_1 = x, T_k = 2 x T_k-1 - T_k-2.

    `degree` is at least 1. The first step, 2 x^2 - 1, needs no T_0 in memory.
    """
    assert degree >= 1, degree
    if degree == 1:
        return x
    twice = 2 * x
    before, current = x, twice * x - 1
    for _ in range(degree - 2):
        before, current = current, twice * current - before
    return current


def chebyshev_cost(name: str, numbers: int, degree: int) -> Cost:
    """What `chebyshev` executes: 3 FLOPs for degree 2 and 2 for each further degree.

    Backward: a product for each factor of every product, one for the doubling, a sign change for
    every subtracted term, and a sum wherever a value was used more than once.
    """
    if degree == 1:
        return Cost(name=name)
    steps = degree - 2
    products = 2 * (degree - 1) + 1  # two factors of each product; the doubling
    signs = steps
    sums = _sums(degree)
    return cost.elementwise(
        name,
        numbers,
        forward=3 + 2 * steps,
        backward=products + signs + sums,
        macs=degree - 1,
    )


def _sums(degree: int) -> int:
    """Gradient accumulations: uses beyond the first of x, of 2x and of each T_k."""
    uses_of_twice = degree - 1
    uses_of_x = 2 + (1 if degree >= 3 else 0)  # the doubling, the first product, T_3's subtraction
    # T_k (2 <= k <= degree - 2) is a factor of T_k+1 and is subtracted in T_k+2
    shared = max(0, degree - 3)
    return (uses_of_twice - 1) + (uses_of_x - 1) + shared
