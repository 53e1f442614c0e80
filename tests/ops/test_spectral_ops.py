"""The parts of spectral mixers against independent references in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from undense.ops.auxiliary import with_loss
from undense.ops.block_fir import filter_blocks, toeplitz
from undense.ops.causal_filter import CausalFilter
from undense.ops.causal_fir import BandedKernel, overlap_save
from undense.ops.chunk_scan import Features, read
from undense.ops.drive import drive
from undense.ops.modal_bank import ModalBank
from undense.ops.modal_chunks import resonate
from undense.ops.output_gate import unit_gate
from undense.ops.overlap_add import OverlapAddFilter
from undense.ops.relaxed_topk import sigmoid_topk
from undense.ops.slots import Slots


@pytest.mark.parametrize("taps", [2, 5, 33, 64, 128])
@pytest.mark.parametrize("time", [1, 7, 300])
def test_filters_by_transforms_and_by_blocks_are_the_sum_over_the_taps(
    taps: int, time: int
) -> None:
    joined = torch.randn(2, 3, taps - 1 + time, dtype=torch.float64)
    kernel = torch.randn(3, taps, dtype=torch.float64)
    wanted = sum(
        kernel[:, j, None] * joined[..., taps - 1 - j : taps - 1 - j + time] for j in range(taps)
    )
    assert torch.allclose(overlap_save(joined, kernel), wanted, atol=1e-11)
    run = CausalFilter.of(kernel)
    padded = nn.functional.pad(joined, (run.early - taps + 1, 0))
    assert run.table is not None
    assert torch.allclose(run(padded), wanted, atol=1e-11)


def test_the_written_ways_back_are_the_derivatives() -> None:
    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    def project(x: Tensor, weight: Tensor, taps: Tensor) -> tuple[Tensor, ...]:
        return drive(x, weight, taps, [4, 3], [2, 5], torch.float64)

    def filtered(joined: Tensor, kernel: Tensor) -> Tensor:
        return filter_blocks(joined, toeplitz(kernel))

    def gated(z: Tensor, one: Tensor, other: Tensor) -> Tensor:
        return unit_gate(z, one, other.transpose(2, 3))

    def scanned(values: Tensor, *parts: Tensor) -> Tensor:
        return read(values, [Features(*parts[:3]), Features(*parts[3:])])

    content, modes = (drawn(2, 5, 4), drawn(2, 5, 4), drawn(2, 5, 3)), (2, 4)
    two = (drawn(2, *modes), drawn(2, *modes), drawn(2, 2, 3))
    for function, inputs in (
        (project, (drawn(2, 9, 3), drawn(14, 3), drawn(7, 4))),
        (filtered, (drawn(2, 2, 96), drawn(2, 40))),
        (gated, (drawn(2, 6, 8), drawn(2, 2, 3, 2, 4), drawn(2, 2, 2, 3, 4))),
        (scanned, (drawn(2, 3, 4), *content, *two)),
    ):
        assert torch.autograd.gradcheck(function, inputs)


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
        (layer(torch.randn(2, 6, time)) * torch.randn(2, 6, time)).sum().backward()
        optimizer.step()
        with torch.no_grad():
            for p in optimizer.param_groups[0]["params"]:
                p.add_(torch.randn_like(p))
            x = torch.randn(2, 6, time)
            assert (layer(x) - x).abs().max() <= 1e-6 * x.abs().max()


def test_a_response_that_is_not_the_identity_changes_the_input() -> None:
    layer = OverlapAddFilter(6, 2, frame=16, overlap=0.125)
    layer.scale.data[:, 3] = 0
    x = torch.randn(1, 6, 50)
    assert (layer(x) - x).abs().max() > 0.1


def test_modes_over_chunks_are_the_convolution_with_their_kernel() -> None:
    bank = ModalBank(2, modes=8).double()
    values = torch.randn(3, 50, 2, 4, dtype=torch.float64)
    slots = Slots.of(50, 8, None, None)
    start = torch.zeros(3, 2, 8, 2, 4, dtype=torch.float64)
    placed = slots.place(values.new_zeros(3, 0, 8), values.flatten(2))
    heads = slots.packed(placed.mT, 2)
    rates = bank.rates()
    tables, carry = bank.tables(rates, 8, heads.dtype), bank.carry(rates, 8, 7, heads.dtype)
    features, after = resonate(bank, rates, tables, carry, slots, heads, start, None, None)
    got = read(heads, [features]).transpose(2, 3).flatten(3, 4)  # (batch, heads, width, slots)
    got = slots.pick(got.flatten(1, 2).mT).unflatten(2, (2, 4))
    turn = torch.complex(-rates.decay, rates.phase)
    powers = torch.exp(turn * torch.arange(50))
    kernel = (torch.view_as_complex(bank.gain)[..., None] * powers).real.sum(1)  # (heads, time)
    wanted = torch.stack(
        [
            sum(kernel[:, t - s, None] * values[:, s] for s in range(t + 1))  # type: ignore[misc]
            for t in range(50)
        ],
        1,
    )
    assert torch.allclose(got, wanted, atol=1e-10)
    left = torch.exp(turn * (50 - torch.arange(50)))  # of each token, after the last
    state = torch.einsum("hkt,bthw->bhkw", left, values.to(left.dtype))
    assert torch.allclose(torch.view_as_complex(after.mT.contiguous()), state, atol=1e-10)


def test_modes_decay_whatever_their_parameters_are() -> None:
    bank = ModalBank(2, modes=8)
    bank.decay.data = 1e4 * torch.randn_like(bank.decay)
    assert (bank.rates().powers(torch.ones(1)).square().sum(-2) < 1).all()


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
