"""A component is one file: the README's own example, as printed, keeps the whole contract."""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import test_contract

from undense import contract
from undense.contract import Config

ROOT = Path(__file__).resolve().parent.parent.parent
PROMISES = [
    function
    for name, function in vars(test_contract).items()
    if name.startswith("test_") and "config" in inspect.signature(function).parameters
]


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    """The example's config; its component is registered for one test."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "@register" in c]
    monkeypatch.setattr(contract._REGISTRY, "_classes", contract.components())
    module = types.ModuleType("newcomer")
    monkeypatch.setitem(sys.modules, "newcomer", module)
    exec(compile(code, "README example", "exec", dont_inherit=True), module.__dict__)
    yield module.Scale.Config()


@pytest.mark.parametrize("promise", PROMISES, ids=lambda function: function.__name__)
def test_the_example_keeps(promise: Callable[..., None], config: Config) -> None:
    others: dict[str, object] = {"shape": (2, 7, test_contract.DIM), "training": True}
    names = inspect.signature(promise).parameters
    promise(**{name: config if name == "config" else others[name] for name in names})


def test_there_are_promises_to_keep() -> None:
    assert len(PROMISES) >= 12
