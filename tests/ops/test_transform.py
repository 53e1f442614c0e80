"""FFT transforms and the soft choice against numpy, scipy and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st

from undense.ops.fft_transforms import CosineTransform, FourierTransform
from undense.ops.soft_top_k import TEMPERATURE, LearnedSelection, threshold
from undense.ops.transform import GivenTransform, Transform


@given(dim=st.integers(3, 70))
def test_cosine_coefficients_are_scipys(dim: int) -> None:
    transform = CosineTransform(dim).double()
    x = torch.randn(3, dim, dtype=torch.float64)
    expected = scipy.fft.dct(x.numpy(), norm="ortho")[:, transform.names().numpy()]
    signs = np.where(np.arange(transform.modes) % 2, -1.0, 1.0)  # bins turned the other way
    assert np.allclose(transform.analyse(x).numpy(), expected * signs, atol=1e-10)


@given(dim=st.integers(3, 70))
def test_fourier_coefficients_are_numpys(dim: int) -> None:
    transform = FourierTransform(dim).double()
    x = torch.randn(3, dim, dtype=torch.float64)
    expected = np.fft.rfft(x.numpy(), norm="ortho")[:, transform.names().numpy()]
    got = transform.analyse(x).unflatten(-1, (-1, 2)).numpy()
    assert np.allclose(got[..., 0] + 1j * got[..., 1], expected, atol=1e-10)


@pytest.mark.parametrize("dim", [48, 47, 7])
@pytest.mark.parametrize(
    "build", [FourierTransform, CosineTransform, lambda d: GivenTransform(d, 5)]
)
def test_single_rows_do_what_the_whole_transform_does(build: type[Transform], dim: int) -> None:
    transform = build(dim)  # type: ignore[arg-type]
    x = torch.randn(3, dim)
    kept = torch.tensor([0, 2])
    modes = (kept[:, None] * transform.width + torch.arange(transform.width)).flatten()
    coefficients = transform.analyse(x)
    assert torch.allclose(coefficients[:, modes], x @ transform.analysis_rows(kept).T, atol=1e-5)
    alone = torch.zeros_like(coefficients)
    alone[:, modes] = coefficients[:, modes]
    rows = transform.synthesis_rows(kept)
    assert torch.allclose(transform.synthesise(alone), coefficients[:, modes] @ rows, atol=1e-5)
    assert torch.allclose(transform.project(transform.synthesise(alone)), alone, atol=1e-5)


@pytest.mark.parametrize("spread", [0.01, 0.3, 50.0])
@pytest.mark.parametrize("count", [1, 4, 10])
def test_soft_shares_add_up_to_the_count(count: int, spread: float) -> None:
    score = spread * torch.randn(2, 11, dtype=torch.float64)

    def excess(b: float, row: np.ndarray) -> float:
        z = (row - b) / TEMPERATURE
        half = np.exp(-np.abs(z)) / 2
        return float(np.where(z > 0, 1 - half, half).sum() - count)

    for row, found in zip(score.numpy(), threshold(score, count)[:, 0].tolist(), strict=True):
        assert abs(excess(found, row)) < 1e-6
        if spread < 1:  # further apart the sum is flat between two scores
            assert found == pytest.approx(scipy.optimize.brentq(excess, -5, 5, (row,)), abs=1e-7)


def test_the_gradient_is_that_of_the_soft_choice() -> None:
    selection = LearnedSelection(1, 7, 3).double()
    selection.score.data = 0.2 * torch.randn(1, 7, dtype=torch.float64)
    values = (1 + torch.rand(1, 7, 2, dtype=torch.float64)).neg().requires_grad_()  # none is bound
    weights = torch.randn(1, 7, 2, dtype=torch.float64)
    chosen = selection.choose(values)
    kept = torch.zeros(7, dtype=torch.bool)
    kept[selection.kept()[0]] = True
    assert torch.equal(chosen[0, kept], values[0, kept])
    assert (chosen[0, ~kept] == 0).all() and kept.sum() == 3

    def soft(score: torch.Tensor) -> torch.Tensor:
        z = (score - threshold(score, 3)) / TEMPERATURE
        half = (-z.abs()).exp() / 2
        return torch.where(z > 0, 1 - half, half)

    got, to_values = torch.autograd.grad((chosen * weights).sum(), [selection.score, values])
    assert torch.allclose(to_values, weights * soft(selection.score.detach())[..., None])
    step = 1e-6
    for i in range(7):
        move = torch.zeros(1, 7, dtype=torch.float64)
        move[0, i] = step
        slope = (soft(selection.score.data + move) - soft(selection.score.data - move)) / (2 * step)
        expected = (slope[..., None] * values * weights).sum().item()
        assert got[0, i].item() == pytest.approx(expected, abs=1e-5)
