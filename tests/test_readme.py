"""The README's Python runs as printed, and its commands exist."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

import undense.ffn
import undense.mixers  # noqa: F401
from undense import contract

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet_runs(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract._REGISTRY, "_classes", contract.components())
    module = types.ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)
    code = compile(SNIPPETS[number], f"README snippet {number}", "exec", dont_inherit=True)
    exec(code, module.__dict__)


def test_there_are_snippets_to_run() -> None:
    assert len(SNIPPETS) >= 3


def test_every_command_that_the_readme_names_is_a_verb() -> None:
    from undense_command import VERBS

    named = re.findall(r"^undense (\w+)", README, re.MULTILINE)
    assert named and set(named) <= {verb.split()[0] for verb in VERBS}


def test_every_results_file_that_the_readme_names_is_there() -> None:
    root = Path(__file__).resolve().parent.parent
    for path in re.findall(r"`((?:benchmarks|docs)/[\w./-]+\.(?:json|html|md|svg|png))`", README):
        assert (root / path).exists(), path
