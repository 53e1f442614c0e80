"""GELU and SiLU as a short odd Chebyshev series, without exp, tanh or erf.

act(x) = x (1/2 + a_1 T_1(u) + a_3 T_3(u) + a_5 T_5(u)), u = x / sqrt(s^2 + x^2).
Odd polynomials of u sum to 1/2 at u = 1 by a_1 + a_3 + a_5 = 1/2, so that act(x) is x far to the
right and 0 far to the left, and u stays in [-1, 1] for every x. s and the a_k are least squares on
[-12, 12], weighted by the density of N(0, 3^2) plus a thousandth of its maximum;
`benchmarks/activation_fit.py` finds them, and a test holds the ones below to them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Series(NamedTuple):
    """`scale` s, and a_1, a_3, a_5: what the fit found."""

    scale: float
    odd: tuple[float, float, float]

    def powers(self) -> tuple[float, float, float]:
        """The same polynomial as u (p_0 + p_1 u^2 + p_2 u^4): by Horner a FLOP fewer a degree than
        by Clenshaw, and as accurate at so low a degree."""
        a, b, c = self.odd
        # T_3 = 4 u^3 - 3 u; T_5 = 16 u^5 - 20 u^3 + 5 u
        return a - 3 * b + 5 * c, 4 * b - 20 * c, 16 * c

    def slope(self) -> tuple[float, float, float, float]:
        """d act / dx = 1/2 + u (q_0 + q_1 v + q_2 v^2 + q_3 v^3), v = u^2: as x du/dx = u (1 - v),
        the bracket is p + (1 - v) (p + 2 v dp/dv)."""
        p0, p1, p2 = self.powers()
        return 2 * p0, 4 * p1 - p0, 6 * p2 - 3 * p1, -5 * p2


SERIES: dict[str, Series] = {
    "chebyshev_gelu": Series(2.59309, (0.59974089, -0.12150221, 0.02176132)),
    "chebyshev_silu": Series(3.84928, (0.58877509, -0.10160316, 0.01282807)),
}


def _inside(x: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """u and u^2. Half precision is widened: ½ + u (…) cancels on the left, fp16's x^2 overflows."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    u = wide * torch.rsqrt(wide * wide + scale * scale)
    return u, u * u


class _Rational(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, name: str) -> Tensor:
        p0, p1, p2 = SERIES[name].powers()
        u, v = _inside(x, SERIES[name].scale)
        return (((v * p2 + p1) * v + p0) * u + 0.5).mul(x).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.name = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return rational_backward(grad, ctx.saved_tensors[0], ctx.name), None


def rational(x: Tensor, name: str) -> Tensor:
    """act(x) by the series called `name`, of the shape and dtype of `x`, |x| < 1e19."""
    result = _Rational.apply(x, name)
    assert isinstance(result, Tensor)
    return result


def rational_backward(grad: Tensor, x: Tensor, name: str) -> Tensor:
    """The gradient with respect to `x`; u is computed again, only `x` need be kept."""
    q0, q1, q2, q3 = SERIES[name].slope()
    u, v = _inside(x, SERIES[name].scale)
    return ((((v * q3 + q2) * v + q1) * v + q0) * u + 0.5).mul(grad).to(x.dtype)
