"""Chebyshev polynomials of the first kind: terms by their recurrence, series by Clenshaw's, and the
map that brings any number into [-1, 1], where they are bounded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from undense import cost
from undense.cost import Cost, per_element


class _Bounded(torch.autograd.Function):
    """z / sqrt(1 + z^2). Its own backward, r^3: autograd's would subtract z^2 r^3 from r, of which
    little is left in half precision where z is large."""

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        wide = z.to(torch.promote_types(z.dtype, torch.float32))  # fp16 overflows at 256^2
        return (wide * torch.rsqrt(wide * wide + 1)).to(z.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (z,) = ctx.saved_tensors
        wide = z.to(torch.promote_types(z.dtype, torch.float32))
        r = torch.rsqrt(wide * wide + 1)
        return (r * r * r * grad).to(z.dtype)


def bounded(z: Tensor) -> Tensor:
    """u = z / sqrt(1 + z^2), in [-1, 1] (within a rounding) for every |z| < 1e19.

    Its slope (1 + z^2)^(-3/2) falls as a power, so that no input is without a gradient; tanh's is
    exactly 0 in fp32 from |z| = 9 on, in bf16 from 3.5.
    """
    result = _Bounded.apply(z)
    assert isinstance(result, Tensor)
    return result


def bounded_cost(name: str, numbers: int) -> Cost:
    """What `bounded` executes: one multiply-add a number, as every activation function."""
    return cost.elementwise(
        name,
        numbers,
        forward=per_element("bounded"),
        backward=per_element("bounded_backward"),
        macs=1,
    )


def chebyshev(x: Tensor, degree: int) -> Tensor:
    """T_degree(x) for every number of `x` in [-1, 1]; T_0 = 1, T_1 = x, T_k = 2 x T_k-1 - T_k-2.

    `degree` is at least 1. The first step, 2 x^2 - 1, needs no T_0 in memory.
    """
    return chebyshevs(x, degree)[-1]


def chebyshevs(x: Tensor, degree: int) -> list[Tensor]:
    """T_1(x), … T_degree(x), each of the shape of `x`."""
    assert degree >= 1, degree
    terms = [x]
    if degree == 1:
        return terms
    twice = 2 * x
    terms.append(twice * x - 1)
    while len(terms) < degree:
        terms.append(twice * terms[-1] - terms[-2])
    return terms


def clenshaw(x: Tensor, coefficients: Tensor) -> Tensor:
    """sum_k coefficients[k - 1] T_k(x), k = 1 … degree, no term of which is formed.

    b_k = coefficients[k - 1] + 2 x b_k+1 - b_k+2, from the highest down; the sum is x b_1 - b_2.
    `coefficients` (degree, *shape of x). Source: Clenshaw 1955,
    https://doi.org/10.1090/S0025-5718-1955-0071856-0.
    """
    *lower, last = coefficients.unbind(0)
    if not lower:
        return x * last
    twice = 2 * x
    before, current = last, twice * last + lower.pop()
    for own in reversed(lower):
        before, current = current, twice * current - before + own
    return x * current - before


def chebyshev_cost(name: str, numbers: int, degree: int, *, all_terms: bool = False) -> Cost:
    """What `chebyshev` (`all_terms`: `chebyshevs`, every term of which is used once) executes: 3
    FLOPs for degree 2 and 2 for each further degree.

    Backward: a product for each factor of every product, one for the doubling, a sign change for
    every subtracted term, and a sum wherever a value was used more than once.
    """
    if degree == 1:
        return Cost(name=name)
    steps = degree - 2
    products = 2 * (degree - 1) + 1  # two factors of each product; the doubling
    signs = steps
    # the terms before the last have a use more when they are put out themselves
    sums = _sums(degree) + (degree - 1 if all_terms else 0)
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


def clenshaw_cost(name: str, numbers: int, degree: int) -> Cost:
    """What `clenshaw` executes, the gradients of `numbers` x degree coefficients with it.

    Backward: both factors of every product, the doubling, a sign for every subtraction, and a sum
    for the second use of x and of b_2 … b_degree and for the later uses of 2x.
    """
    if degree == 1:
        return cost.product(name, numbers)
    products = 2 * degree + 1
    signs = degree - 1
    sums = 1 + (degree - 1) + (degree - 2)
    return cost.elementwise(
        name,
        numbers,
        forward=5 + 3 * (degree - 2),
        backward=products + signs + sums,
        macs=degree,
    )
