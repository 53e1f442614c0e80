"""What went wrong, in one line: for errors that a user can mend, and for those that are ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from undense.errors import UndenseError

INTERRUPTED = 130  # what a shell reports for a process that Ctrl-C ended
LONGEST = 900


def explain(error: BaseException) -> str:
    """One line for stderr: what, which value, the remedy."""
    return " ".join(_text(error).split())[:LONGEST]


def _text(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return (
            "interrupted; nothing half-written was left, and the same command takes up finished"
            " stages where it can"
        )
    if any(_disk_is_full(cause) for cause in _causes(error)):
        return f"the disk is full ({_first_line(error)}); free some space or use another folder"
    if isinstance(error, UndenseError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory ({_first_line(error)}); take smaller batches or blocks"
    if type(error).__name__ == "SafetensorError":
        return f"a safetensors file is truncated or damaged ({_first_line(error)}); copy it again"
    if isinstance(error, OSError):
        return _operating_system(error)
    return (
        f"unexpected {type(error).__name__}: {_first_line(error)} (run again with --debug for the"
        " traceback)"
    )


def _operating_system(error: OSError) -> str:
    if error.strerror is None:  # transformers raises plain OSErrors with a text of many lines
        return _first_line(error)
    place = f"{error.filename}: " if error.filename is not None else ""
    return f"{place}{error.strerror}"


def _disk_is_full(error: BaseException) -> bool:
    # safetensors and torch wrap the system's error and keep only its words
    known = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return known or "No space left on device" in str(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that led to it."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
