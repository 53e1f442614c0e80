"""`undense --help` is there at once: no torch, no package, a fixed table of verbs."""

from __future__ import annotations

import inspect
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import Command

import undense
import undense.cli
import undense_command


def alone(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["convrt"]])
def test_nothing_heavy_is_imported(words: list[str]) -> None:
    done = alone(
        f"import sys, undense_command\ncode = undense_command.main({words})\n"
        "heavy = {'torch', 'transformers', 'undense', 'tyro', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\nsys.exit(code)"
    )
    assert done.returncode == (2 if words == ["convrt"] else 0), done.stderr


def test_the_help_comes_at_once() -> None:
    """The fastest of three: a machine that is busy elsewhere is no fault of the command."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = alone("import undense_command; undense_command.main(['--help'])")
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0
    assert min(seconds) < 0.7


def test_the_help_of_no_verb_waits_for_torch() -> None:
    done = alone(
        "import sys, undense_command\n"
        "for verb in undense_command.VERBS:\n"
        "    assert undense_command.main([*verb.split(), '--help']) == 0\n"
        "    assert not {'torch', 'transformers'} & set(sys.modules), verb\n"
    )
    assert done.returncode == 0, done.stderr
    for verb in undense_command.VERBS:
        assert f"usage: undense {verb}" in done.stdout


def test_the_version_is_that_of_the_package(undense_version: Command) -> None:
    assert undense_version("--version").out == f"undense {undense.__version__}\n"


@pytest.fixture
def undense_version(request: pytest.FixtureRequest) -> Command:
    """The command line, under a name that leaves the package's free."""
    return request.getfixturevalue("undense")


def test_every_verb_has_a_file_and_every_file_a_verb() -> None:
    folder = Path(inspect.getfile(undense.cli)).parent
    helpers = {
        "__init__",
        "doctor_kernels",
        "errors",
        "fields",
        "options",
        "screen",
        "text",
        "verb",
    }
    files = {path.stem for path in folder.glob("*.py")} - helpers
    assert files == {verb.replace(" ", "_") for verb in undense_command.VERBS}


def test_the_overview_names_every_verb_in_a_line() -> None:
    lines = undense_command.overview().splitlines()
    for verb, words in undense_command.VERBS.items():
        assert any(line.startswith(f"  {verb} ") and line.endswith(words) for line in lines)


@pytest.mark.parametrize(("typed", "meant"), [("convrt", "convert"), ("finetun", "finetune")])
def test_a_misspelt_verb_is_recognised(undense_version: Command, typed: str, meant: str) -> None:
    outcome = undense_version(typed)
    assert outcome.code == 2
    assert f"did you mean {meant}" in outcome.err
