"""Blocks chosen by token: values and gradients against one token and one block at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.library import opcheck

from undense.errors import UndenseError
from undense.kernels.pairs import FEW_PAIRS
from undense.measure.flops import count_flops
from undense.ops.activation import NAMES, activate
from undense.ops.chosen_blocks import chosen_blocks

BLOCKS, SIZE, DIM, K = 7, 5, 6, 3


def operands(
    tokens: int, *, gated: bool, bias: bool, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor]:
    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype).requires_grad_()

    inner = SIZE * (1 + gated)
    chosen = torch.rand(tokens, BLOCKS).topk(K, 1).indices
    return (
        leaf(tokens, DIM),
        leaf(BLOCKS, inner, DIM),
        leaf(BLOCKS, inner) if bias else None,
        leaf(BLOCKS, SIZE, DIM),
        chosen,
        leaf(tokens, K),
    )


def one_by_one(
    x: Tensor,
    up: Tensor,
    up_bias: Tensor | None,
    down: Tensor,
    chosen: Tensor,
    gates: Tensor,
    activation: str,
) -> Tensor:
    y = []
    for token in range(len(x)):
        total = torch.zeros_like(x[0])
        for place, block in enumerate(chosen[token].tolist()):
            inner = up[block] @ x[token] + (0 if up_bias is None else up_bias[block])
            hidden = activate(inner[:SIZE], activation)
            if len(inner) > SIZE:
                hidden = hidden * inner[SIZE:]
            total = total + gates[token, place] * (down[block].T @ hidden)
        y.append(total)
    return torch.stack(y)


@pytest.mark.parametrize("tokens", [1, 4, 60])  # single rows; single rows; a product for each block
@pytest.mark.parametrize(("gated", "bias"), [(False, True), (True, False)])
@pytest.mark.parametrize("activation", NAMES)
def test_values_and_gradients_are_those_of_one_block_at_a_time(
    tokens: int, gated: bool, bias: bool, activation: str
) -> None:
    given = operands(tokens, gated=gated, bias=bias)
    got, wanted = chosen_blocks(*given, activation), one_by_one(*given, activation)
    assert torch.allclose(got, wanted, atol=1e-12)
    leaves = [t for t in given if t is not None and t.requires_grad]
    direction = torch.randn_like(got)
    for one, other in zip(
        torch.autograd.grad((got * direction).sum(), leaves),
        torch.autograd.grad((wanted * direction).sum(), leaves),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-12)


def test_both_paths_were_tested() -> None:
    assert 4 * K <= FEW_PAIRS < 60 * K


def test_blocks_that_nobody_chose_are_not_read() -> None:
    x, up, up_bias, down, _, gates = operands(40, gated=False, bias=True)
    assert up_bias is not None
    chosen = torch.arange(K).expand(40, K)
    with torch.no_grad():
        for tensor in (up, up_bias, down):
            tensor[K:] = torch.nan
    for count in (2, 40):
        y = chosen_blocks(x[:count], up, up_bias, down, chosen[:count], gates[:count], "gelu")
        assert torch.isfinite(y).all()


def test_flops_are_what_is_worked_out_by_hand() -> None:
    """A pair: 6 inputs, 5 neurons, 6 outputs. There: product, bias, GELU by tanh, gate, product,
    sum. Back: GELU again, gate times hidden, the gate's product and sum, the gate, the GELU's
    derivative, four products, the sums for the bias and the input."""
    given = operands(3, gated=False, bias=True)
    count = count_flops(lambda: chosen_blocks(*given, "gelu_tanh"), backward=True)
    assert count.forward == 3 * K * (60 + 5 + 9 * 5 + 5 + 60 + 6)
    assert count.backward == 3 * K * (9 * 5 + 5 + 10 + 5 + 18 * 5 + 4 * 60 + 5 + 6)
    assert not count.uncounted


def test_the_operation_keeps_its_contract_with_the_compiler() -> None:
    given = operands(5, gated=True, bias=True, dtype=torch.float32)
    opcheck(torch.ops.undense.chosen_blocks.default, (*given, "silu"))


def test_forward_mode_is_refused_not_answered_wrongly() -> None:
    x, *rest = (t if t is None else t.detach() for t in operands(5, gated=False, bias=True))
    chosen_blocks(x, *rest, "gelu")
    with forward_ad.dual_level(), pytest.raises(UndenseError, match="no derivative in forward"):
        chosen_blocks(x, *rest, "gelu")


def test_autocast_runs_it_in_bf16() -> None:
    given = operands(5, gated=False, bias=True, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = chosen_blocks(*given, "gelu")
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    for leaf in given:
        if leaf is not None and leaf.requires_grad:
            assert leaf.grad is not None and leaf.grad.dtype == torch.float32
