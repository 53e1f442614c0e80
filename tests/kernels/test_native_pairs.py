"""The compiled products over pairs against plain PyTorch in fp64, at any shape."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pair_operands import operands, products

from undense.errors import UndenseError
from undense.kernels.grouped import grouped
from undense.kernels.library import kernels
from undense.kernels.native_pairs import NativePairs
from undense.kernels.pairs import ReferencePairs

pytestmark = pytest.mark.skipif(
    kernels().library is None, reason="no compiled library: " + kernels().reason
)

# widths and rows around the sizes of registers, slices and panels, and odd ones
sizes = st.integers(1, 40) | st.sampled_from([48, 64, 67, 96, 131])
dims = st.integers(1, 40) | st.sampled_from([64, 97, 255, 256, 257, 300, 528])


@given(
    tokens=st.integers(0, 60) | st.sampled_from([129, 300]),
    blocks=st.integers(1, 6),
    k=st.integers(1, 3),
    width=sizes,
    dim=dims,
    threads=st.integers(1, 2),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    biased=st.booleans(),
)
def test_products_at_any_shape_are_those_in_fp64(
    tokens: int,
    blocks: int,
    k: int,
    width: int,
    dim: int,
    threads: int,
    dtype: torch.dtype,
    biased: bool,
) -> None:
    chosen, rows, matrix, bias = operands(tokens, blocks, min(k, blocks), width, dim, dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pairs = grouped(chosen, matrix)
        assert isinstance(pairs, NativePairs)
        got = products(pairs, rows, matrix, bias if biased else None)
    finally:
        torch.set_num_threads(before)
    exact = ReferencePairs(chosen, blocks)
    wanted = products(exact, rows.double(), matrix.double(), bias.double() if biased else None)
    assert torch.equal(pairs.order, exact.order)
    for one, other, stored in zip(got, wanted, (torch.float32, dtype, dtype), strict=True):
        assert one.dtype == stored
        off = 3e-6 if stored == torch.float32 else 8e-3
        scale = other.abs().max() if other.numel() else 0
        assert torch.allclose(one.double(), other, rtol=off, atol=float(off * scale))


def test_threads_do_not_change_a_bit() -> None:
    chosen, rows, matrix, bias = operands(70, 9, 4, 24, 200, torch.float32)
    before, results = (torch.get_num_threads(), [])
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(products(grouped(chosen, matrix), rows, matrix, bias))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_strided_operands_are_read_as_they_are() -> None:
    chosen, rows, matrix, _ = operands(20, 5, 2, 8, 32, torch.float32)
    pairs = grouped(chosen, matrix)
    turned = rows.T.contiguous().T
    swapped = matrix.transpose(0, 1).contiguous().transpose(0, 1)
    assert not turned.is_contiguous() and not swapped.is_contiguous()
    for one, other in zip(
        products(pairs, turned, swapped, None), products(pairs, rows, matrix, None), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_passes_through_to_its_own_token(value: float) -> None:
    chosen, rows, matrix, _ = operands(40, 5, 2, 16, 64, torch.float32)
    rows[7, 3] = value
    pairs = grouped(chosen, matrix)
    inner = pairs.gather_dot(rows, matrix, None)
    y = pairs.scatter_add(inner, matrix)
    assert not torch.isfinite(y[7]).any()
    assert torch.isfinite(y[torch.arange(40) != 7]).all()


@pytest.mark.parametrize("number", [-1, 5])
def test_a_block_that_does_not_exist_is_refused(number: int) -> None:
    chosen, _, matrix, _ = operands(4, 5, 2, 8, 16, torch.float32)
    chosen[2, 1] = number
    with pytest.raises(UndenseError, match=f"chosen block {number} does not exist; there are 5"):
        grouped(chosen, matrix)
