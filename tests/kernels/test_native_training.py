"""What training computes between its products, compiled, against plain PyTorch in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from undense.kernels.library import ACTIVATIONS, kernels
from undense.ops.chosen_blocks import chosen_blocks

pytestmark = pytest.mark.skipif(
    kernels().library is None, reason="no compiled library: " + kernels().reason
)


def gradients(given: list[Tensor], chosen: Tensor, activation: str) -> list[Tensor]:
    """The output and the gradient of every operand, of a sum with other weight for each number."""
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    x, up, up_bias, down, gates = leaves
    y = chosen_blocks(x, up, up_bias, down, chosen, gates, activation)
    towards = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return [y.detach(), *torch.autograd.grad((y * towards).sum(), leaves)]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("size", [1, 8, 19, 35])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_those_in_fp64(
    activation: str, gated: bool, size: int, dtype: torch.dtype
) -> None:
    tokens, blocks, k, dim = (30, 5, 2, 24)
    chosen = torch.rand(tokens, blocks).topk(k, 1).indices
    width = size * (1 + gated)
    up, down = (blocks, width, dim), (blocks, size, dim)
    shapes = [(tokens, dim), up, up[:2], down, (tokens, k)]
    given = [torch.randn(shape).to(dtype) for shape in shapes]
    given[1] = given[1] / 2  # inner numbers of up to about 10, on both sides
    got = gradients(given, chosen, activation)
    wanted = gradients([tensor.double() for tensor in given], chosen, activation)
    off = 2e-5 if dtype == torch.float32 else 3e-2
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == dtype
        assert (one - other).abs().max() <= off * other.abs().max()


def test_no_pairs_have_gradients_of_zero() -> None:
    shapes = [(0, 24), (5, 8, 24), (5, 8), (5, 8, 24), (0, 2)]
    chosen = torch.empty(0, 2, dtype=torch.int64)
    torch.use_deterministic_algorithms(True)  # what is not written is NaN
    try:
        found = gradients([torch.randn(shape) for shape in shapes], chosen, "silu")
    finally:
        torch.use_deterministic_algorithms(False)
    for gradient, shape in zip(found[1:], shapes, strict=True):
        assert gradient.shape == shape and not gradient.any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_large_numbers_and_those_that_are_none(activation: str) -> None:
    """Far from zero every activation is flat or straight; a NaN stays with its own pair."""
    inner = torch.tensor([-1e4, -90.0, -30.0, 0.0, 30.0, 90.0, 1e4])
    given = [inner[:, None], torch.ones(1, 1, 1), torch.zeros(1, 1), torch.ones(1, 1, 1)]
    chosen, gates = torch.zeros(7, 1, dtype=torch.int64), torch.ones(7, 1)
    got = gradients([*given, gates], chosen, activation)
    wanted = gradients([t.double() for t in (*given, gates)], chosen, activation)
    assert torch.allclose(got[0].double(), wanted[0], rtol=1e-5, atol=1e-5)
    assert torch.allclose(got[1].double(), wanted[1], rtol=1e-5, atol=1e-5)
    given[0][2] = torch.nan
    for one, other in zip(
        gradients([*given, gates], chosen, activation)[:2],
        gradients([t.double() for t in (*given, gates)], chosen, activation)[:2],
        strict=True,
    ):
        assert one.isnan().equal(other.isnan())
