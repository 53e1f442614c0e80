"""The compiled library: where it is, which instruction set it runs, how to do without it.

It is built with the package (a C++ compiler is all it needs) as a plain C interface and loaded with
ctypes; its threads are those of torch's OpenMP. Without a compiler the package installs all the same
and the plain PyTorch paths run: `undense doctor` says which.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import NamedTuple

from undense.errors import UndenseError

VARIABLE = "UNDENSE_KERNELS"
LEVELS = ("baseline", "avx2", "avx512")
CHOICES = ("auto", "reference", *LEVELS)


class Kernels(NamedTuple):
    """What runs, and why: `path` is "reference" or an instruction set."""

    path: str
    reason: str
    library: ctypes.CDLL | None


@functools.cache
def kernels() -> Kernels:
    """The library in use, decided once for a process.

    The environment variable UNDENSE_KERNELS chooses: auto (the best the CPU has), reference (plain
    PyTorch), baseline, avx2, avx512 (no more than the CPU has). Raises UndenseError for another
    value, and for an instruction set that is not to be had.
    """
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted not in CHOICES:
        raise UndenseError(f"{VARIABLE}={wanted!r}; it must be one of {', '.join(CHOICES)}")
    if wanted == "reference":
        return Kernels("reference", f"{VARIABLE}=reference", None)
    built = sorted(Path(__file__).parent.glob("_native*.so"))
    if not built:
        if wanted != "auto":
            raise UndenseError(f"{VARIABLE}={wanted}, but {ABSENT}")
        return Kernels("reference", ABSENT, None)
    try:
        library = ctypes.CDLL(str(built[-1]))
    except OSError as error:
        if wanted != "auto":
            raise UndenseError(
                f"{VARIABLE}={wanted}, but the library does not load: {error}"
            ) from error
        return Kernels("reference", f"{built[-1].name} does not load: {error}", None)
    library.undense_group.restype = ctypes.c_int64
    level = library.undense_level()
    if wanted != "auto":
        level = library.undense_limit(LEVELS.index(wanted))
        if LEVELS[level] != wanted:
            raise UndenseError(
                f"{VARIABLE}={wanted}, but this CPU has no more than {LEVELS[level]}"
            )
    return Kernels(LEVELS[level], built[-1].name, library)


ABSENT = (
    "the compiled library was not built: install a C++ compiler (Debian: g++) and install the"
    " package again"
)
