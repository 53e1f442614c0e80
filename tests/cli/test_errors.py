"""Every kind of error becomes one line with what a user needs."""

from __future__ import annotations

import errno

import pytest
from safetensors import SafetensorError

from undense.cli.errors import explain
from undense.errors import UndenseError

FULL = OSError(errno.ENOSPC, "No space left on device", "/data/out/model.safetensors")


def wrapped() -> UndenseError:
    """A full disk as the layers between report it."""
    error = UndenseError("cannot write out; nothing was left behind")
    error.__cause__ = SafetensorError("I/O error: No space left on device (os error 28)")
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UndenseError("ratio=2\n  must be at most 1"), "ratio=2 must be at most 1"),
        (FULL, "the disk is full ([Errno 28] No space left on device"),
        (wrapped(), "the disk is full (cannot write out"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/srv/x"),
            "/srv/x: Permission denied",
        ),
        (OSError("gpt9 is no model\n\nIf this is a private repository"), "gpt9 is no model"),
        (SafetensorError("header too large"), "truncated or damaged (header too large)"),
        (MemoryError(), "out of memory"),
        (KeyboardInterrupt(), "interrupted"),
        (ZeroDivisionError("division by zero"), "unexpected ZeroDivisionError: division by zero"),
    ],
)
def test_one_line(error: BaseException, words: str) -> None:
    line = explain(error)
    assert words in line
    assert "\n" not in line


def test_a_bug_tells_how_to_see_more() -> None:
    assert "--debug" in explain(KeyError("loss"))
