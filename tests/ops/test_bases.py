"""Bases, polynomials and regressions against scipy, numpy and brute force in fp64."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st

from undense.errors import UndenseError
from undense.ffn import SparseSpectral
from undense.ops.activation import activate, canonical
from undense.ops.chebyshev import chebyshev
from undense.ops.fourier import cosine_basis, fourier_basis
from undense.ops.regression import reduced_rank, ridge


@given(dim=st.integers(1, 65))
def test_bases_are_orthonormal_at_any_width(dim: int) -> None:
    for build in (fourier_basis, cosine_basis):
        rows, frequencies = build(dim)
        assert rows.shape == (dim, dim) and frequencies.shape == (dim,)
        assert torch.allclose(rows @ rows.T, torch.eye(dim), atol=1e-5)


@pytest.mark.parametrize("dim", [8, 9, 48])
def test_cosine_basis_is_the_orthonormal_dct(dim: int) -> None:
    x = np.random.default_rng(0).normal(size=dim)
    rows, _ = cosine_basis(dim)
    assert np.allclose(rows.double().numpy() @ x, scipy.fft.dct(x, norm="ortho"), atol=1e-5)


@pytest.mark.parametrize("dim", [8, 9, 48])
def test_spectral_filter_is_the_truncated_complex_response(dim: int) -> None:
    """gain and twist of a pair are the real and imaginary part of one frequency's response."""
    kept = 3
    ffn = SparseSpectral(dim, SparseSpectral.Config(k_freq=kept)).double()
    real, imaginary = (torch.randn(kept, dtype=torch.float64) for _ in range(2))
    ffn.gain.data = real.repeat_interleave(2)
    assert ffn.twist is not None
    # (a + ib)(C - iS) = (aC + bS) - i(aS - bC), C and S the products with cosine and sine
    ffn.twist.data = torch.stack([imaginary, -imaginary], -1).flatten()
    basis, _ = fourier_basis(dim)
    ffn.analysis.copy_(basis[1 : 1 + 2 * kept])
    ffn.synthesis.copy_(basis[1 : 1 + 2 * kept])
    x = torch.randn(5, dim, dtype=torch.float64)
    spectrum = np.fft.rfft(x.numpy())
    response = np.zeros(spectrum.shape[-1], dtype=complex)
    response[1 : 1 + kept] = real.numpy() + 1j * imaginary.numpy()
    expected = np.fft.irfft(spectrum * response, n=dim)
    assert np.allclose(ffn(x).detach().numpy(), expected, atol=1e-5)


@given(degree=st.integers(1, 12))
def test_chebyshev_matches_the_cosine_definition(degree: int) -> None:
    x = torch.linspace(-1, 1, 41, dtype=torch.float64)
    expected = torch.cos(degree * torch.acos(x))
    assert torch.allclose(chebyshev(x, degree), expected, atol=1e-10)


def test_ridge_without_penalty_is_least_squares_with_intercept() -> None:
    x = torch.randn(200, 6, dtype=torch.float64) + 3
    y = torch.randn(200, 4, dtype=torch.float64)
    weight, bias = ridge(x, y, strength=0.0)
    ones = np.concatenate([x.numpy(), np.ones((200, 1))], 1)
    expected = np.linalg.lstsq(ones, y.numpy(), rcond=None)[0]
    assert np.allclose(weight.numpy(), expected[:-1], atol=1e-8)
    assert np.allclose(bias.numpy(), expected[-1], atol=1e-8)


def test_ridge_without_intercept_goes_through_the_origin() -> None:
    x = torch.randn(200, 6) + 1
    y = torch.randn(200, 3) - 2
    weight, bias = ridge(x, y, strength=0.0, intercept=False)
    assert torch.equal(bias, torch.zeros(3))
    torch.testing.assert_close(weight, torch.linalg.lstsq(x, y).solution, rtol=1e-4, atol=1e-5)


def test_ridge_on_few_rows_predicts_new_ones_no_worse_than_their_mean() -> None:
    """Noise alone is worth nothing, a clean signal everything; a fixed strength fails the first."""
    x, noise = torch.randn(1200, 90), torch.randn(1200, 8)
    signal = x @ torch.randn(90, 8)

    def left(y: torch.Tensor, strength: float | None) -> float:
        weight, bias = ridge(x[:200], y[:200], strength=strength)
        error = (x[200:] @ weight + bias - y[200:]).square().sum()
        return float(error / (y[200:] - y[200:].mean(0)).square().sum())

    assert left(noise, None) < 1.02 and left(noise, 1e-4) > 1.5
    assert left(signal, None) < 1e-4


def test_reduced_rank_beats_truncating_the_weight() -> None:
    x = torch.randn(1000, 10) @ (torch.randn(10, 10) * torch.logspace(0, -1.5, 10))
    y = x @ torch.randn(10, 8) + 0.1 * torch.randn(1000, 8)
    x, y = x - x.mean(0), y - y.mean(0)
    out, into, gains = reduced_rank(x, y, 3)
    error = (x @ into * gains @ out.T - y).square().sum()
    weight, _ = ridge(x, y)
    left, singular, right = torch.linalg.svd(weight)
    truncated = left[:, :3] * singular[:3] @ right[:3]
    assert error < (x @ truncated - y).square().sum()
    assert torch.allclose(out.T @ out, torch.eye(3), atol=1e-5)
    assert torch.allclose(into.norm(dim=0), torch.ones(3), atol=1e-5)


def test_hugging_face_names_are_known() -> None:
    assert canonical("gelu_new") == "gelu_tanh" and canonical("swish") == "silu"
    with pytest.raises(UndenseError, match="mish"):
        canonical("mish")


def test_squared_relu() -> None:
    x = torch.tensor([-2.0, 0.5, 3.0])
    assert activate(x, "relu2").tolist() == [0.0, 0.25, 9.0]
