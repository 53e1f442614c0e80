"""Triton's products over pairs against plain PyTorch in fp64: in its interpreter, or on a GPU.

Triton reads TRITON_INTERPRET once, when it is imported, so that this file has a process of its own:
`test_triton_pairs.py` runs it in the interpreter, `tests/gpu/test_triton_hardware.py` without.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_operands import operands, products
from torch import Tensor

from undense.contract import DenseShape, build
from undense.errors import UndenseError
from undense.ffn.presets import resolve
from undense.kernels import triton_pairs
from undense.kernels.pairs import Pairs, ReferencePairs
from undense.kernels.triton_kernels import INTERPRETED
from undense.kernels.triton_pairs import TritonPairs
from undense.ops import chosen_blocks as operation
from undense.ops.chosen_blocks import chosen_blocks

DEVICE = "cpu" if INTERPRETED else "cuda"
assert INTERPRETED or torch.cuda.is_available(), "set TRITON_INTERPRET=1, or run it on a GPU"

# around the sizes of tiles, and odd ones
widths = st.integers(1, 40) | st.sampled_from([64, 67])
dims = st.integers(1, 40) | st.sampled_from([64, 65, 131])
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# fp32: sums of up to 131 products; matrix units cut off where they add. The interpreter cuts bf16
# off where hardware rounds: 2 ** -8 for an operand and as much for the result.
OFF = {
    torch.float32: 1e-6 if INTERPRETED else 5e-6,
    torch.bfloat16: 1.2e-2,
    torch.float16: 2e-3,
}


@pytest.fixture(autouse=True)
def there() -> Iterator[None]:
    """All that a test makes is where the kernels run."""
    with torch.device(DEVICE):
        yield


def assert_close(one: Tensor, other: Tensor, off: float) -> None:
    scale = other.abs().max().item() if other.numel() else 0
    assert torch.allclose(one.double(), other.double(), rtol=off, atol=off * scale)


@settings(max_examples=20 if INTERPRETED else 8)  # a GPU compiles almost every one anew
@given(
    tokens=st.integers(0, 33),
    blocks=st.integers(1, 6),
    k=st.integers(1, 3),
    empty=st.integers(0, 4),
    width=widths,
    dim=dims,
    dtype=st.sampled_from(DTYPES),
    biased=st.booleans(),
)
def test_products_at_any_shape_are_those_in_fp64(
    tokens: int,
    blocks: int,
    k: int,
    empty: int,
    width: int,
    dim: int,
    dtype: torch.dtype,
    biased: bool,
) -> None:
    chosen, rows, matrix, bias = operands(tokens, blocks, min(k, blocks), width, dim, dtype)
    chosen += empty  # blocks that nobody chose, before and after the others
    matrix, bias = (
        torch.cat([t[:1].repeat(empty, *t[0].ndim * [1]), t, t]) for t in (matrix, bias)
    )
    pairs, exact = TritonPairs(chosen, len(matrix)), ReferencePairs(chosen, len(matrix))
    assert torch.equal(pairs.order, exact.order)
    got = products(pairs, rows, matrix, bias if biased else None)
    wanted = products(exact, rows.double(), matrix.double(), bias.double() if biased else None)
    for one, other, stored in zip(got, wanted, (torch.float32, dtype, dtype), strict=True):
        assert one.dtype == stored
        assert_close(one, other, OFF[stored])


def test_columns_one_after_the_other_and_calls_do_not_change_a_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen, rows, matrix, bias = operands(60, 4, 2, 20, 150, torch.float32)
    pairs = TritonPairs(chosen, 4)
    first = products(pairs, rows, matrix, bias)
    monkeypatch.setattr(triton_pairs, "BUFFER_BYTES", 1)  # 64 columns at a time
    for one, other in zip(first, products(pairs, rows, matrix, bias), strict=True):
        assert torch.equal(one, other)


def test_strided_operands_are_read_as_they_are() -> None:
    chosen, rows, matrix, bias = operands(20, 5, 2, 8, 32, torch.float32)
    pairs = TritonPairs(chosen, 5)
    turned, bent = rows.T.contiguous().T, bias.T.contiguous().T
    swapped = matrix.transpose(0, 1).contiguous().transpose(0, 1)
    assert not any(t.is_contiguous() for t in (turned, swapped, bent))
    for one, other in zip(
        products(pairs, turned, swapped, bent), products(pairs, rows, matrix, bias), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul:RuntimeWarning")  # numpy's
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_passes_through_to_its_own(value: float, dtype: torch.dtype) -> None:
    """Its own token, and the gradients of that token's blocks."""
    chosen, rows, matrix, _ = operands(40, 5, 2, 16, 70, dtype)
    chosen[:20], chosen[20:] = torch.tensor([2, 4]), torch.tensor([0, 4])
    chosen[0] = torch.tensor([1, 3])
    rows[0, 3] = value  # the row that is read where a mask leaves a pair out
    pairs = TritonPairs(chosen, 5)
    inner = pairs.gather_dot(rows, matrix, None)
    y = pairs.scatter_add(inner, matrix)
    assert not torch.isfinite(y[0]).any()
    assert torch.isfinite(y[1:]).all()
    grad = pairs.outer_sum(torch.ones_like(inner), rows)
    assert not torch.isfinite(grad[[1, 3], :, 3]).any()
    assert torch.isfinite(grad[[0, 2, 4]]).all()


def test_blocks_that_nobody_chose_are_not_read() -> None:
    chosen, rows, matrix, bias = operands(40, 4, 2, 16, 70, torch.float32)
    matrix, bias = (torch.cat([t, torch.full_like(t, torch.nan)]) for t in (matrix, bias))
    inner, y, grad = products(TritonPairs(chosen, 8), rows, matrix, bias)
    assert torch.isfinite(inner).all() and torch.isfinite(y).all()
    assert torch.equal(grad[4:], torch.zeros_like(grad[4:]))


def test_places_beyond_32_bits_are_found() -> None:
    """Eight GB that nobody touches but for one block: memory is given where it is written."""
    size, dim = 64, 64
    blocks = 2**20 + 1
    matrix = torch.empty(blocks, size, dim, dtype=torch.float16)
    matrix[-1] = torch.randn(size, dim)
    chosen, rows = torch.tensor([[blocks - 1]]), torch.randn(1, dim).half()
    pairs = TritonPairs(chosen, blocks)
    inner = pairs.gather_dot(rows, matrix, None)
    wanted = rows.double() @ matrix[-1].double().T
    assert_close(inner, wanted, OFF[torch.float32])
    assert_close(
        pairs.scatter_add(inner, matrix), wanted.half().double() @ matrix[-1].double(), 1e-3
    )


@pytest.mark.skipif(
    not INTERPRETED, reason="ends the process's use of the GPU: test_triton_hardware.py has it"
)
@pytest.mark.parametrize("number", [-1, 5])
def test_a_block_that_does_not_exist_is_refused(number: int) -> None:
    chosen, *_ = operands(4, 5, 2, 8, 16, torch.float32)
    chosen[2, 1] = number
    with pytest.raises(RuntimeError, match="a chosen block does not exist; there are 5"):
        TritonPairs(chosen, 5)


def test_mixed_dtypes_are_refused() -> None:
    chosen, rows, matrix, _ = operands(4, 5, 2, 8, 16, torch.float32)
    with pytest.raises(UndenseError, match="dtypes are mixed"):
        TritonPairs(chosen, 5).gather_dot(rows, matrix.bfloat16(), None)


def by(kind: type[Pairs], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation, "grouped", lambda chosen, matrix: kind(chosen, len(matrix)))


@pytest.mark.parametrize("tokens", [1, 53])
@pytest.mark.parametrize(("gated", "bias"), [(False, True), (True, False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_whole_map_and_its_gradients_are_those_in_fp64(
    tokens: int, gated: bool, bias: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks, size, dim, k = 7, 11, 67, 3

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape).to(dtype).requires_grad_()

    leaves = [leaf(tokens, dim), leaf(blocks, size * (1 + gated), dim), leaf(blocks, size, dim)]
    leaves += [leaf(tokens, k), *([leaf(blocks, size * (1 + gated))] if bias else [])]
    chosen = torch.rand(tokens, blocks - 2).topk(k, 1).indices  # two blocks stay empty
    received = torch.randn(tokens, dim).to(dtype)

    def run(leaves: list[Tensor]) -> list[Tensor]:
        x, up, down, gates, *rest = leaves
        y = chosen_blocks(x, up, rest[0] if rest else None, down, chosen, gates, "gelu_tanh")
        return [y.detach(), *torch.autograd.grad(y, leaves, received.to(y.dtype))]

    by(TritonPairs, monkeypatch)
    got = run(leaves)
    by(ReferencePairs, monkeypatch)
    wanted = run([leaf.detach().double().requires_grad_() for leaf in leaves])
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == dtype
        exact = 2e-6 if INTERPRETED else 1e-5
        assert_close(one, other, exact if dtype == torch.float32 else 4e-2)


def test_a_training_step_of_the_default_preset_is_that_of_plain_pytorch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ffn = build(48, resolve("ultra-25", DenseShape(dim=48, hidden=192), untrained=True)).train()
    x = torch.randn(2, 13, 48, requires_grad=True)
    ends = [x, *ffn.parameters()]
    results = []
    for kind in (TritonPairs, ReferencePairs):
        by(kind, monkeypatch)
        y = ffn(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), ends)])
    for one, other in zip(*results, strict=True):
        assert_close(one, other, 1e-5)
