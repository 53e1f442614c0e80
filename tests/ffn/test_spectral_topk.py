"""Each token's own frequencies: the contract variants, and the choice itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from undense.ffn import TokenSpectral
from undense.ops.spectrum import Basis

Config = TokenSpectral.Config

VARIANTS = [
    Config(k_freq=2),
    Config(k_freq=5, basis="cosine"),
    Config(k_freq=20, basis="cosine"),
    Config(k_freq=5, basis="eigen"),
]


@pytest.mark.parametrize("k_freq", [2, 8])
@pytest.mark.parametrize("dim", [48, 47])
def test_fourier_is_numpys_transform_with_all_but_the_largest_set_to_zero(
    dim: int, k_freq: int
) -> None:
    component = TokenSpectral(dim, Config(k_freq=k_freq)).double()
    assert component.by_rows == (k_freq == 2)
    assert component.twist is not None
    x = torch.randn(9, dim, dtype=torch.float64)
    spectrum = np.fft.rfft(x.numpy())
    first, last = 1, (dim - 1) // 2 + 1
    magnitude = np.abs(spectrum[:, first:last])
    keep = np.zeros(spectrum.shape, dtype=bool)
    np.put_along_axis(keep[:, first:last], np.argsort(-magnitude)[:, :k_freq], True, axis=-1)
    gain, twist = component.gain.detach().numpy(), component.twist.detach().numpy()
    filtered = np.zeros_like(spectrum)
    inner = spectrum[:, first:last]
    filtered[:, first:last] = (inner.real * gain[:, 0] + inner.imag * twist[:, 0]) + 1j * (
        inner.imag * gain[:, 1] + inner.real * twist[:, 1]
    )
    expected = np.fft.irfft(np.where(keep, filtered, 0), n=dim)
    assert np.allclose(component(x).detach().numpy(), expected, atol=1e-6)
    chosen = {int(f) for f in np.nonzero(keep[0])[0]}
    assert set(component.kept(x)[0].tolist()) == chosen


@pytest.mark.parametrize("basis", ["fourier", "cosine", "eigen"])
def test_tokens_choose_for_themselves(basis: Basis) -> None:
    component = TokenSpectral(48, Config(k_freq=2, basis=basis))
    rows = component.transform.synthesis_rows(torch.tensor([1, 5]))
    own = component.kept(rows)
    names = component.transform.names()
    width = component.transform.width
    assert int(own[0, 0]) == int(names[1]) and int(own[width, 0]) == int(names[5])


def test_the_inverse_takes_the_cheaper_way() -> None:
    """4 k d FLOPs by rows, 2.5 d ceil(log2 d) by FFT: at d = 768 the FFT wins from k = 7 on."""
    ways = [TokenSpectral(768, Config(k_freq=k)) for k in (6, 7)]
    assert [way.by_rows for way in ways] == [True, False]
    assert ways[0].cost(1).forward < ways[1].cost(1).forward
