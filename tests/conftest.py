"""Shared by every test: reproducible draws, two threads, and no progress bars."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from undense.kernels import choice

settings.register_profile("suite", deadline=None, max_examples=20, derandomize=True)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test starts from the same random state."""
    torch.manual_seed(0)
    yield


@pytest.fixture(scope="session", autouse=True)
def no_calibration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What somebody measured on this machine decides nothing here."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("calibrations")
        patch.setattr(choice, "cache_folder", lambda: folder)
        choice.forget()
        yield


@pytest.fixture
def own_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own for what a test measures."""
    monkeypatch.setattr(choice, "cache_folder", lambda: tmp_path)
    choice.forget()
    yield tmp_path
    monkeypatch.undo()
    choice.forget()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For files whose models are so small that they would only wait for the other thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
