"""Chebyshev series, the map into their domain, and the activations made of them, against numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial.chebyshev import chebval, chebvander
from torch import Tensor

from undense.ops.activation import activate, activate_backward
from undense.ops.chebyshev import bounded, chebyshevs, clenshaw
from undense.ops.rational import SERIES, rational

ORIGINALS: dict[str, Callable[[Tensor], Tensor]] = {
    "chebyshev_gelu": F.gelu,
    "chebyshev_silu": F.silu,
}


@given(degree=st.integers(1, 12))
def test_terms_and_series_are_those_of_numpy(degree: int) -> None:
    x = torch.linspace(-1, 1, 41, dtype=torch.float64)
    terms = torch.stack(chebyshevs(x, degree), -1)
    assert np.allclose(terms.numpy(), chebvander(x.numpy(), degree)[:, 1:], atol=1e-12)
    coefficients = torch.randn(degree, 41, dtype=torch.float64)
    expected = [
        chebval(float(u), [0.0, *own.tolist()]) for u, own in zip(x, coefficients.T, strict=True)
    ]
    assert np.allclose(clenshaw(x, coefficients).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_input_lands_in_the_domain_and_keeps_a_gradient(dtype: torch.dtype) -> None:
    """Up to 100 in half precision, of which fp16's square would overflow at 256; 1e8 beyond."""
    half = torch.finfo(dtype).bits == 16
    z = torch.logspace(-3, 2 if half else 8, 200, dtype=torch.float64)
    z = torch.cat([-z, z]).to(dtype).requires_grad_()
    u = bounded(z)
    assert u.dtype == dtype and float(u.detach().abs().max()) <= 1 + torch.finfo(dtype).eps
    (slope,) = torch.autograd.grad(u.sum(), z)
    exact = (1 + z.detach().double().square()) ** -1.5
    assert (slope > 0).all()
    assert torch.allclose(slope.double(), exact, rtol=8 * torch.finfo(dtype).eps, atol=1e-7 * half)


def test_a_large_number_in_half_precision_does_not_come_back_as_zero() -> None:
    assert bounded(torch.tensor([600.0, -600.0]).half()).tolist() == [1.0, -1.0]
    z = torch.tensor([600.0, -600.0]).half()
    assert rational(z, "chebyshev_gelu").tolist() == pytest.approx([600, 0], abs=0.1)


@pytest.mark.parametrize("name", SERIES)
def test_constants_are_the_least_squares_fit(name: str) -> None:
    """No other coefficients or scale near these do better; solved again by numpy."""
    x = np.linspace(-12, 12, 4801)
    weight = np.sqrt(np.exp(-x * x / 18) + 1e-3)
    wanted = ORIGINALS[name](torch.from_numpy(x)).numpy()

    def solved(scale: float) -> tuple[np.ndarray, float]:
        terms = x[:, None] * chebvander(x / np.sqrt(scale**2 + x * x), 5)[:, 1::2]
        free = (terms[:, 1:] - terms[:, :1]) * weight[:, None]
        rest = (wanted - x / 2 - terms[:, 0] / 2) * weight
        others, residual, *_ = np.linalg.lstsq(free, rest, rcond=None)
        return np.array([0.5 - others.sum(), *others]), float(residual[0])

    scale, odd = SERIES[name]
    best, residual = solved(scale)
    assert np.allclose(odd, best, atol=1e-6)
    assert residual < min(solved(scale - 1e-2)[1], solved(scale + 1e-2)[1])
    assert sum(odd) == pytest.approx(0.5, abs=2e-8)


@pytest.mark.parametrize(
    ("name", "worst", "usual"),
    [("chebyshev_gelu", 0.0098, 0.0028), ("chebyshev_silu", 0.003, 4e-4)],
)
def test_activations_are_as_close_as_their_table_says(
    name: str, worst: float, usual: float
) -> None:
    x = torch.linspace(-40, 40, 8001, dtype=torch.float64)
    error = activate(x, name) - ORIGINALS[name](x)
    assert float(error.abs().max()) < worst
    density = (-x.square() / 2).exp()
    assert float((density * error.square()).sum() / density.sum()) ** 0.5 < usual
    u = x / (SERIES[name].scale ** 2 + x * x).sqrt()
    a, b, c = SERIES[name].odd
    reference = x.numpy() * (0.5 + chebval(u.numpy(), [0, a, 0, b, 0, c]))
    assert np.allclose(activate(x, name).numpy(), reference, atol=1e-12)


@pytest.mark.parametrize("name", SERIES)
def test_gradients_of_activations(name: str) -> None:
    x = (3 * torch.randn(40, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: activate(x, name), x)
    assert torch.autograd.gradgradcheck(lambda x: activate(x, name), x)
    (slope,) = torch.autograd.grad(activate(x, name).sum(), x)
    assert torch.equal(slope, activate_backward(torch.ones_like(x), x, name))
    assert (slope[x > 12] > 0.99).all() and (slope != 0).all()


@pytest.mark.parametrize("name", SERIES)
def test_half_precision_loses_no_more_than_its_rounding(name: str) -> None:
    x = torch.linspace(-30, 30, 601).bfloat16()
    exact = activate(x.double(), name)
    got = activate(x, name)
    assert got.dtype == torch.bfloat16
    assert torch.allclose(got.double(), exact, rtol=2**-8, atol=1e-5)
