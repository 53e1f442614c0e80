"""The parts of spectral mixers against independent references in fp64."""

from __future__ import annotations

import pytest
import torch

from undense.ops.auxiliary import with_loss
from undense.ops.causal_fir import BandedKernel, direct, overlap_save
from undense.ops.chunk_scan import read
from undense.ops.modal_bank import ModalBank
from undense.ops.modal_chunks import resonate
from undense.ops.overlap_add import OverlapAddFilter
from undense.ops.padding import Grid, Packing
from undense.ops.relaxed_topk import sigmoid_topk


@pytest.mark.parametrize("taps", [2, 5, 64, 128])
@pytest.mark.parametrize("time", [1, 7, 300])
def test_overlap_save_is_the_sum_over_the_taps(taps: int, time: int) -> None:
    before = torch.randn(2, taps - 1, 3, dtype=torch.float64)
    x = torch.randn(2, time, 3, dtype=torch.float64)
    kernel = torch.randn(taps, 3, dtype=torch.float64)
    joined = torch.cat([before, x], 1)
    wanted = sum(kernel[j] * joined[:, taps - 1 - j : taps - 1 - j + time] for j in range(taps))
    assert torch.allclose(overlap_save(before, x, kernel), wanted, atol=1e-11)
    assert torch.allclose(direct(joined, kernel), wanted, atol=1e-11)


@pytest.mark.parametrize("time", [1, 5, 100, 333])
@pytest.mark.parametrize(("frame", "overlap"), [(16, 0.125), (32, 0.5), (8, 0.0), (9, 0.3)])
def test_identity_response_returns_the_input_at_every_point_of_training(
    time: int, frame: int, overlap: float
) -> None:
    layer = OverlapAddFilter(6, 2, frame=frame, overlap=overlap)
    optimizer = torch.optim.SGD(
        [p for n, p in layer.named_parameters() if n not in ("response", "scale")], lr=10.0
    )
    for _ in range(3):  # window and fades wander; the response stays the identity
        optimizer.zero_grad()
        (layer(torch.randn(2, time, 6)) * torch.randn(2, time, 6)).sum().backward()
        optimizer.step()
        with torch.no_grad():
            for p in optimizer.param_groups[0]["params"]:
                p.add_(torch.randn_like(p))
            x = torch.randn(2, time, 6)
            assert (layer(x) - x).abs().max() <= 2e-6  # a few roundings of numbers up to 4


def test_a_response_that_is_not_the_identity_changes_the_input() -> None:
    layer = OverlapAddFilter(6, 2, frame=16, overlap=0.125)
    layer.scale.data[:, 3] = 0
    x = torch.randn(1, 50, 6)
    assert (layer(x) - x).abs().max() > 0.1


def test_modes_over_chunks_are_the_convolution_with_their_kernel() -> None:
    bank = ModalBank(2, modes=8).double()
    values = torch.randn(3, 50, 2, 4, dtype=torch.float64)
    grid = Grid.of(Packing(50), 8, None)
    start = torch.zeros(3, 2, 8, 2, 4, dtype=torch.float64)
    heads = grid.heads(values.flatten(2), 2)
    features, _ = resonate(bank, grid, heads, start, None, None)
    got = grid.join(read(heads, [features]).transpose(2, 3))
    decay, phase = bank.rates()
    powers = torch.exp(torch.complex(-decay, phase)[..., None] * torch.arange(50))
    kernel = (torch.view_as_complex(bank.gain)[..., None] * powers).real.sum(1)  # (heads, time)
    wanted = torch.stack(
        [
            sum(kernel[:, t - s, None] * values[:, s] for s in range(t + 1))  # type: ignore[misc]
            for t in range(50)
        ],
        1,
    )
    assert torch.allclose(got, wanted, atol=1e-10)


def test_modes_decay_whatever_their_parameters_are() -> None:
    bank = ModalBank(2, modes=8)
    bank.decay.data = 1e4 * torch.randn_like(bank.decay)
    assert (bank.powers(torch.ones(1)).square().sum(-2) < 1).all()


def test_band_scales_of_a_kernel_scale_their_octaves() -> None:
    kernel = BandedKernel(4, 2, taps=16)
    kernel.scale.data.zero_()
    assert not kernel().any()


def test_soft_topk_sums_to_k_and_has_the_gradient_of_the_exact_threshold() -> None:
    scores = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    k = torch.tensor([[2.5], [1.0], [7.2]], dtype=torch.float64, requires_grad=True)
    temperature = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(sigmoid_topk(scores, k, temperature).sum(-1, keepdim=True), k, atol=1e-8)
    assert torch.autograd.gradcheck(sigmoid_topk, (scores, k, temperature), atol=1e-5)


def test_injected_loss_is_minimised_by_itself_and_leaves_the_output_alone() -> None:
    weight = torch.tensor(3.0, requires_grad=True)
    y = torch.ones(4, requires_grad=True)
    out = with_loss(y, weight.square())
    assert torch.equal(out, y)
    (5 * out).sum().backward()
    assert weight.grad == 6  # d(w^2)/dw, whatever the host's loss is scaled by
    assert (y.grad == 5).all()
