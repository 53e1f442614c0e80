"""Cells of a measurement are found again, and only where they still count."""

from __future__ import annotations

from pathlib import Path

import pytest

from undense.errors import UndenseError
from undense.measure.cells import Cells


def test_a_cell_is_found_by_its_key_and_identity(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    key = {"tokens": 16, "arms": ["a", "b"]}
    assert cells.get(key) is None
    assert not list(tmp_path.iterdir())  # looking writes nothing
    cells.put(key, {"ms": 1.5})
    again = Cells(tmp_path)
    assert again.get(dict(reversed(key.items()))) == {"ms": 1.5}
    assert again.get(key | {"tokens": 17}) is None
    again.identity = "of other source"
    assert again.get(key) is None


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(UndenseError, match="is a file"):
        Cells(tmp_path / "f")
