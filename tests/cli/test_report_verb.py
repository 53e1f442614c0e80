"""`undense report` rebuilds the page, there or elsewhere, or only says that it could."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from commands import Command


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """The made-up run of the report's own tests."""
    return _fixture().write_run(tmp_path / "run")


def _fixture() -> ModuleType:
    path = Path(__file__).parent.parent / "report" / "fixture.py"
    spec = importlib.util.spec_from_file_location("run_fixture", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_is_rebuilt_and_the_verdict_told(
    undense: Command, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undense.report.page.render", lambda run: run.command)
    outcome = undense("report", run_folder)
    assert outcome.code == 0, outcome.err
    assert "ultra-25 wins" in outcome.out
    assert (run_folder / "report.html").read_text() == "undense demo"


def test_a_dry_run_only_reads(undense: Command, run_folder: Path) -> None:
    result = undense("report", run_folder, "--dry-run", "--json").result
    assert result["written"] is False
    assert result["verdict"]["Who won"] == "ultra-25 wins"
    assert not (run_folder / "report.html").exists()


def test_the_page_can_go_elsewhere(
    undense: Command, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undense.report.page.render", lambda run: run.command)
    result = undense("report", run_folder, "--output-dir", tmp_path / "docs", "--json").result
    assert Path(result["report"]) == tmp_path / "docs" / "report.html"
    assert (tmp_path / "docs" / "report.html").read_text() == "undense demo"
    assert not (run_folder / "report.html").exists()
