"""The import direction: a file imports from floors below its own, and FFN files not one another."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "undense"
FLOORS = [
    {"errors", "files", "cost", "per_number", "registry"},
    {"kernels"},
    {"ops", "contract", "mixing"},
    {"ffn", "mixers", "measure", "train"},
    {"convert", "models"},
    {"report"},
    {"pipeline"},
    {"cli"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(path: Path) -> set[str]:
    """Dotted names under `undense` that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith("undense.")}


def part(name: str) -> str | None:
    top = name.split(".")[1]
    return top if top in FLOOR else None


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imported(path):
        other = part(name)
        if other is not None and other != own:
            assert FLOOR[other] <= FLOOR[own], f"{path.name} imports {name} from a higher floor"


@pytest.mark.parametrize("folder", ["ffn", "mixers"])
def test_components_do_not_import_one_another(folder: str) -> None:
    composers = {"__init__.py", "presets.py"}
    for path in (PACKAGE / folder).glob("*.py"):
        if path.name not in composers:
            siblings = {name for name in imported(path) if name.startswith(f"undense.{folder}")}
            assert not siblings, f"{path.name} imports {siblings}"


def test_the_report_reads_files_not_code() -> None:
    for path in (PACKAGE / "report").glob("*.py"):
        allowed = ("undense.report", "undense.errors", "undense.files")
        assert all(name.startswith(allowed) for name in imported(path)), path.name


def test_the_check_would_notice() -> None:
    assert part("undense.cli.demo") == "cli" and FLOOR["cli"] > FLOOR["ffn"]
