"""Cells of a measurement are found again, and only where they still count."""

from __future__ import annotations

from pathlib import Path

import pytest

from undense.errors import UndenseError
from undense.measure import cells as module
from undense.measure.cells import PACKAGE, Cells, identity


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


def test_a_file_that_is_no_cell_is_one_clear_error(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    cells.put({"tokens": 16}, {"ms": 1.5})
    (path,) = cells.folder.iterdir()
    for text in ("{", "[]", "{}"):
        path.write_text(text)
        with pytest.raises(UndenseError, match="no kept measurement; delete it"):
            cells.get({"tokens": 16})


def test_every_source_of_the_kernels_and_what_was_built_of_them_is_part_of_the_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that changed is timed anew."""
    kinds = {path.suffix for path in (PACKAGE / "kernels").iterdir() if path.is_file()}
    monkeypatch.setattr(module, "PACKAGE", tmp_path)
    for kind in kinds | {".so"}:
        source = tmp_path / f"source{kind}"
        before = identity()
        source.write_text("one")
        assert identity() != before
