"""The plain path where it was measured to be clearly faster, and nowhere else."""

from __future__ import annotations

import json
import timeit
from pathlib import Path
from typing import Any

import pytest
import torch

from undense.errors import UndenseError
from undense.ffn import block_topk
from undense.ffn.block_topk import BlockTopK
from undense.kernels import choice
from undense.kernels.library import VARIABLE, kernels, use
from undense.kernels.native_pairs import NativePairs
from undense.kernels.pairs import ReferencePairs
from undense.measure.timing import environment
from undense.ops.output_gate import unit_gate

FP32, BF16 = torch.float32, torch.bfloat16
needs_library = pytest.mark.skipif(
    kernels().library is None, reason="no compiled library: " + kernels().reason
)


def row(work: int, compiled_ms: float, plain_ms: float, **changes: Any) -> dict[str, Any]:
    values = {
        "operation": "outer_sum",
        "dtype": "float32",
        "dim": 768,
        "tokens": 1,
        "work": work,
        "compiled": {"median_ms": compiled_ms, "iqr_ms": [0.99 * compiled_ms, 1.01 * compiled_ms]},
        "plain": {"median_ms": plain_ms, "iqr_ms": [0.99 * plain_ms, 1.01 * plain_ms]},
    }
    return values | changes


def wins(rows: list[dict[str, Any]], dim: int, work: int) -> bool:
    place = ("outer_sum", FP32, dim.bit_length(), work.bit_length())
    return choice.table_of(rows).get(place, False)


def test_a_size_between_goes_with_the_smaller_one_and_beyond_with_the_largest() -> None:
    rows = [row(4, 1, 5), row(50, 5, 1), row(400, 1, 5), row(3000, 5, 1)]
    found = {work: wins(rows, 768, work) for work in (3, 4, 31, 32, 255, 256, 2047, 2048, 10**9)}
    assert list(found.values()) == [False, False, False, True, True, False, False, True, True]
    assert not any(wins(rows, dim, 50) for dim in (128, 511, 1024))
    assert wins(rows, 512, 50)


def test_noise_is_no_reason() -> None:
    assert wins([row(50, 1.11, 1)], 768, 50)
    assert not wins([row(50, 1.09, 1)], 768, 50)
    wide = {"median_ms": 2.0, "iqr_ms": [0.9, 3.0]}
    assert not wins([row(50, 2, 1, compiled=wide)], 768, 50)
    assert not wins([row(50, 5, 1), row(60, 1, 5)], 768, 50)  # two widths of one power of two
    assert not any(choice.table_of([row(50, 1, 5)]).values())
    assert choice.table_of([row(50, 5, 1, operation="micro_steps")]) == {}  # asks for nothing


@needs_library
def test_what_was_measured_counts_where_nobody_named_a_path(
    own_calibration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    threads = torch.get_num_threads()
    asked = ("outer_sum", FP32, 768, 400)
    assert not choice.plain_wins(*asked)
    assert not choice.plain_wins("trained", FP32, 768, 1 << 20)
    assert choice.in_force() == environment()["plain_where_faster"] == []
    choice.keep([row(300, 5, 1)], threads)
    assert choice.plain_wins(*asked)
    assert not choice.plain_wins("outer_sum", BF16, 768, 400)
    assert not choice.plain_wins("outer_sum", BF16, 768, 1024)  # not measured: as without
    (line,) = environment()["plain_where_faster"]  # type: ignore[misc]
    assert line == "outer_sum float32, width 512 to 1023, from 256 pairs a block: plain PyTorch"
    torch.set_num_threads(threads + 1)
    try:
        assert not choice.plain_wins(*asked)  # measured with another number of threads
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setenv(VARIABLE, kernels().path)
    choice.forget()
    assert not choice.plain_wins(*asked)


@needs_library
def test_a_broken_calibration_is_one_clear_error(own_calibration: Path) -> None:
    path = choice.keep([row(300, 5, 1)], torch.get_num_threads())
    assert path.parent == own_calibration
    short = row(300, 5, 1, compiled={"median_ms": 5.0, "iqr_ms": []})
    for broken in ([{"operation": "outer_sum"}], [short]):
        path.write_text(json.dumps({"rows": broken}))
        choice.forget()
        with pytest.raises(UndenseError, match=r"no calibration; delete it, or run .* --refresh"):
            choice.plain_wins("outer_sum", FP32, 768, 400)


@needs_library
@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_products_are_the_same_on_either_path(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = torch.rand(50, 5).topk(2).indices
    pairs = NativePairs(chosen, 5, kernels().library)  # type: ignore[arg-type]
    rows, matrix = torch.randn(50, 24).to(dtype), torch.randn(5, 8, 24).to(dtype)
    values = torch.randn(100, 8)
    taken = []
    names = ("gather_dot", "scatter_add", "outer_sum")
    for name in names:
        right = getattr(ReferencePairs, name)
        monkeypatch.setattr(
            ReferencePairs, name, lambda *of, n=name, f=right: (taken.append(n), f(*of))[1]
        )

    def results() -> list[torch.Tensor]:
        return [
            pairs.gather_dot(rows, matrix, matrix[:, :, 0]),
            pairs.scatter_add(values, matrix),
            pairs.outer_sum(values, rows),
        ]

    compiled = results()
    assert not taken
    with choice.forced(dict.fromkeys(names, True)):
        plain = results()
    assert taken == list(names)
    for one, other in zip(compiled, plain, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, atol=0.2 if dtype is BF16 else 1e-4, rtol=2e-2)


@needs_library
def test_whole_operations_are_the_same_on_either_path(monkeypatch: pytest.MonkeyPatch) -> None:
    ffn = BlockTopK(32, BlockTopK.Config(hidden=64, block=8, chosen=2, shared=8)).eval()
    x, z = torch.randn(9, 32), torch.randn(1, 6, 10)
    part = torch.randn(1, 2, 3, 1, 10)
    with torch.no_grad():
        expected, gate = ffn(x), unit_gate(z, part)
        monkeypatch.setattr(block_topk, "routed_blocks", None)  # no call reaches it
        monkeypatch.setattr("undense.ops.output_gate.gated", None)
        with choice.forced({"routed": True, "unit_gate": True}):
            torch.testing.assert_close(ffn(x), expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(unit_gate(z, part), gate, atol=1e-5, rtol=1e-5)
        with pytest.raises(TypeError):
            ffn(x)


@needs_library
def test_training_takes_its_steps_where_they_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    ffn = BlockTopK(32, BlockTopK.Config(hidden=64, block=8, chosen=2, shared=8)).train()
    x = torch.randn(9, 32)
    expected = torch.autograd.grad(ffn(x).square().sum(), list(ffn.parameters()))
    monkeypatch.setattr(block_topk, "trained_blocks", None)  # no call reaches it
    with choice.forced({"trained": True}):
        found = torch.autograd.grad(ffn(x).square().sum(), list(ffn.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    with pytest.raises(TypeError):
        ffn(x)


@needs_library
def test_the_library_can_be_left_out_and_comes_back() -> None:
    before = kernels().path
    with use() as switch:
        switch(False)
        assert kernels().library is None
        switch(True)
        assert kernels().path == before
        switch(False)
    assert kernels().path == before


@needs_library
def test_asking_takes_no_time_that_a_token_would_notice(own_calibration: Path) -> None:
    """A decoded token is some forty microseconds; a quiet machine asks in 0.2 to 0.4."""
    choice.keep([row(300, 5, 1)], torch.get_num_threads())
    ask = lambda: choice.plain_wins("routed", FP32, 768, 1)  # noqa: E731
    assert min(timeit.repeat(ask, number=1000, repeat=50)) / 1000 < 4e-6
