"""Both paths of every operation, measured once, with the one that a call takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from undense.errors import UndenseError
from undense.kernels import choice
from undense.kernels.library import VARIABLE, kernels
from undense.measure import kernel_paths
from undense.measure.kernel_paths import OPERATIONS, calibrated

pytestmark = [
    pytest.mark.usefixtures("own_calibration", "one_thread"),
    pytest.mark.skipif(
        kernels().library is None, reason="no compiled library: " + kernels().reason
    ),
]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(kernel_paths, "LEAST_ROUNDS", 2)
    monkeypatch.setattr(kernel_paths, "SECONDS", 0.0)
    monkeypatch.setattr("undense.measure.timing.gc.collect", lambda: 0)  # longer than all the rest


def test_every_operation_is_measured_and_measured_once(
    quick: None, own_calibration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = calibrated([32], [20], refresh=False)
    names = {operation.name for operation in OPERATIONS}
    assert {row["operation"] for row in rows} == names - {"spectral_step"}  # 16 sequences at most
    assert set(choice.CHOOSING) < {operation.name for operation in OPERATIONS}
    for row in rows:
        if row["dtype"] == "float32":
            assert row["compiled"]["median_ms"] > 0 and row["plain"]["median_ms"] > 0
            assert row["takes"] in ("compiled", "plain")
    without = [row for row in rows if "compiled" not in row]
    assert {row["why"] for row in without} == {"no compiled code for bfloat16"}
    assert {row["takes"] for row in without} == {"plain"}
    (kept,) = own_calibration.iterdir()
    assert kept.name.endswith(choice.ENDING)
    monkeypatch.setattr(kernel_paths, "timed", None)  # nothing is measured a second time
    assert len(calibrated([32], [20], refresh=False)) == len(rows)
    with pytest.raises(TypeError):
        calibrated([32], [20], refresh=True)
    with pytest.raises(TypeError):
        calibrated([48], [20], refresh=False)


def test_the_path_taken_is_the_one_that_was_faster(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is a choice it follows the times; where there is none it is said aloud."""

    def slow(operation: Any, dtype: torch.dtype, dim: int, tokens: int) -> dict[str, Any]:
        times = {"compiled": 2.0, "plain": 1.0}
        return {"work": tokens} | {
            name: {"median_ms": t, "iqr_ms": [t, t]} for name, t in times.items()
        }

    monkeypatch.setattr(kernel_paths, "timed", slow)
    rows = [row for row in calibrated([32], [8], refresh=False) if "compiled" in row]
    for row in rows:
        chosen = row["operation"] in choice.CHOOSING
        assert row["fastest"] == "plain"
        assert row["takes"] == ("plain" if chosen else "compiled")
        assert row["slower"] == (not chosen)
    monkeypatch.setenv(VARIABLE, kernels().path)
    choice.forget()
    rows = [row for row in calibrated([32], [8], refresh=False) if "compiled" in row]
    assert {row["takes"] for row in rows} == {"compiled"}
    assert {row["why"] for row in rows} == {f"{kernels().path}, {VARIABLE} says so"}
    assert all(row["slower"] for row in rows)


def test_sizes_that_cannot_be(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UndenseError, match=r"tokens=\[0\]; give whole numbers from 1 on"):
        calibrated([32], [0], refresh=False)
    monkeypatch.setattr(kernel_paths, "OPERATIONS", OPERATIONS[-3:])
    rows = calibrated([3], [1], refresh=False)
    impossible = {row["operation"] for row in rows if "impossible" in row}
    assert "spectral_step" in impossible
    assert all(row["takes"] is None for row in rows if "impossible" in row)


def test_without_the_library_there_is_one_path(
    quick: None, own_calibration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "reference")
    monkeypatch.setattr(kernel_paths, "OPERATIONS", OPERATIONS[3:6])
    kernels.cache_clear()
    choice.forget()
    try:
        rows = calibrated([32], [2], refresh=False)
    finally:
        monkeypatch.undo()
        kernels.cache_clear()
    assert not list(own_calibration.iterdir())
    assert {row["takes"] for row in rows} == {"plain"}
    assert {row["why"] for row in rows} == {f"{VARIABLE}=reference"}
    assert all("compiled" not in row for row in rows)
