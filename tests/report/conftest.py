"""A run folder for every test that wants one."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture import write_run


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A complete run, with a spread over seeds beside it."""
    return write_run(tmp_path / "run")
