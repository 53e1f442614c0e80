"""The compiled library: where it is, which instruction set it runs, how to do without it.

It is built with the package (a C++ compiler is all it needs) as a plain C interface and loaded
with ctypes; its threads are those of torch's OpenMP. Without a compiler the package installs all
the same and the plain PyTorch paths run: `undense doctor` says which.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from undense.errors import UndenseError

# What a function takes: i a size, f a number, p an address (None for what is not there), t how many
# threads.
SIGNATURES = {
    "gather_dot": "iiippppppt",
    "scatter_add": "iiipppppt",
    "outer_sum": "iiipppppt",
    "routed": 9 * "i" + 17 * "p" + "t",
    "routed_backward": 9 * "i" + 13 * "p" + "f" + 16 * "p" + "t",
    "micro_steps": 4 * "i" + 7 * "p" + "t",
}
SINGLE = {  # in fp32 alone
    "bent": 4 * "i" + 4 * "p" + "t",
    "bent_backward": 4 * "i" + 9 * "p" + "t",
    "spectral_stretch": "ppt",
    "spectral_step": "ppt",
    "chunk_sums": "iiiiipppt",
    "gated": "pt",
    "row_fir": "iiiipiippt",
    "row_fir_back": "iiiippiippiipt",
}
FALLIBLE = (  # the others return nothing
    *(
        "routed",
        "routed_backward",
        "micro_steps",
        "spectral_stretch",
        "spectral_step",
        "gated",
        "row_fir_back",
    ),
)
INTERFACE = 5  # of native.cpp; raise both when what a function takes, returns or means changes
# In the order of the enumeration in common.inc.
ACTIVATIONS = ("gelu", "gelu_tanh", "silu", "relu", "relu2", "identity")
SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}
# At one token a small FFN is a few microseconds of work, and the weights that a larger one reads
# have pushed Python out of the cache: these, asked before every call, are found by one name each.
is_compiling, is_exporting = torch.compiler.is_compiling, torch.compiler.is_exporting
is_autocast_enabled = torch.is_autocast_enabled
_tracing = torch._C._get_tracing_state
_dispatching, _overriding = torch._C._len_torch_dispatch_stack, torch._C._len_torch_function_stack
_transforming = torch._C._functorch.maybe_current_level  # type: ignore[attr-defined]
_profiling = torch.autograd._profiler_enabled  # type: ignore[attr-defined]
TYPES = {"i": ctypes.c_int64, "f": ctypes.c_float, "p": ctypes.c_void_p, "t": ctypes.c_int}

PLAIN = {Tensor, nn.Parameter, type(None)}

VARIABLE = "UNDENSE_KERNELS"
ELSEWHERE = "UNDENSE_LIBRARY"  # another build of the library, such as one with sanitizers
LEVELS = ("baseline", "avx2", "avx512", "amx")
CHOICES = ("auto", "reference", *LEVELS)
FORCED = f"{VARIABLE}=reference"


class Kernels(NamedTuple):
    """What runs, and why: `path` is "reference" or an instruction set."""

    path: str
    reason: str
    library: ctypes.CDLL | None


@functools.cache
def kernels() -> Kernels:
    """The library in use, decided once for a process.

    The environment variable UNDENSE_KERNELS chooses: auto (the best the CPU has), reference (plain
    PyTorch), baseline, avx2, avx512, amx (no more than the CPU has). Raises UndenseError for
    another value, for an instruction set that is not to be had, and for a library of other sources.
    """
    wanted = os.environ.get(VARIABLE) or "auto"
    if wanted not in CHOICES:
        raise UndenseError(f"{VARIABLE}={wanted!r}; it must be one of {', '.join(CHOICES)}")
    if wanted == "reference":
        return Kernels("reference", FORCED, None)
    elsewhere = os.environ.get(ELSEWHERE)
    built = [Path(elsewhere)] if elsewhere else sorted(Path(__file__).parent.glob("_native*.so"))
    if not built:
        if wanted != "auto":
            raise UndenseError(f"{VARIABLE}={wanted}, but {ABSENT}")
        return Kernels("reference", ABSENT, None)
    try:
        library = ctypes.CDLL(str(built[-1]))
    except OSError as error:
        if wanted != "auto" or elsewhere:
            asked = f"{ELSEWHERE}={elsewhere}" if elsewhere else f"{VARIABLE}={wanted}"
            raise UndenseError(f"{asked}, but the library does not load: {error}") from error
        return Kernels("reference", f"{built[-1].name} does not load: {error}", None)
    _declare(library, built[-1])
    level = library.undense_level()
    if wanted != "auto":
        level = library.undense_limit(LEVELS.index(wanted))
        if LEVELS[level] != wanted:
            raise UndenseError(
                f"{VARIABLE}={wanted}, but this CPU has no more than {LEVELS[level]}"
            )
    return Kernels(LEVELS[level], built[-1].name, library)


@contextmanager
def use() -> Iterator[Callable[[bool], None]]:
    """Gives a function that says whether calls take compiled code (where there is any) or plain
    PyTorch, as often as it changes; afterwards all is as it was. To measure both."""
    own = os.environ.get(VARIABLE)

    def switch(wanted: bool) -> None:
        if wanted == (kernels().library is not None):
            return
        if not wanted:
            os.environ[VARIABLE] = "reference"
        elif own is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = own
        kernels.cache_clear()

    there = kernels().library is not None
    try:
        yield switch
    finally:
        switch(there)


def _declare(library: ctypes.CDLL, path: Path) -> None:
    interface = library.undense_interface() if hasattr(library, "undense_interface") else None
    if interface != INTERFACE:
        raise UndenseError(
            f"{path} was built from other sources: its interface is {interface}, not {INTERFACE};"
            f" install the package again, or set {VARIABLE}=reference"
        )
    library.undense_group.argtypes = [TYPES[kind] for kind in "iiipppp"]
    library.undense_group.restype = ctypes.c_int64
    single = SUFFIX[torch.float32]
    for name, kinds in (SIGNATURES | SINGLE).items():
        for suffix in SUFFIX.values() if name in SIGNATURES else (single,):
            function = getattr(library, f"undense_{name}_{suffix}")
            function.argtypes = [TYPES[kind] for kind in kinds]
            function.restype = ctypes.c_int64 if name in FALLIBLE else None


@functools.cache
def native(name: str, dtype: torch.dtype) -> Callable[..., int]:
    """The compiled function of this name for matrices of this dtype; `kernels` has found it."""
    return getattr(kernels().library, f"undense_{name}_{SUFFIX[dtype]}")


def address(tensor: Tensor | None) -> int | None:
    """Where a contiguous tensor lies."""
    return None if tensor is None else tensor.data_ptr()


def serves(x: Tensor) -> bool:
    """Whether compiled inference takes this call: `runs`, and no gradient is wanted."""
    return not torch.is_grad_enabled() and runs(x)


def runs(x: Tensor) -> bool:
    """Whether compiled code takes this call: there is a library, and the tensor is on the CPU in
    fp32 or bf16, not under autocast; it is not an export, whose program may run elsewhere, nor
    differentiated in forward mode."""
    return (
        x.is_cpu
        and x.dtype in SUFFIX
        and not is_autocast_enabled("cpu")
        and not is_exporting()
        and not forward_mode()
        and present()
    )


def forward_mode() -> bool:
    """Whether someone differentiates in forward mode: a custom operation would drop the tangent."""
    return forward_ad._current_level >= 0


def alike(x: Tensor, held: Iterable[Tensor | None]) -> bool:
    """Whether all is on the CPU in the dtype of `x`: compiled code reads what lies at an address,
    whatever it is."""
    dtype = x.dtype
    for tensor in held:  # a loop: a generator would take three times as long
        if tensor is not None and (tensor.dtype != dtype or not tensor.is_cpu):
            return False
    return True


def unwatched(x: Tensor, held: Iterable[Tensor | None]) -> bool:
    """Whether compiled code may be called without torch's dispatcher, which at one token takes as
    long as a small FFN: nobody traces, counts, profiles or transforms operations, and no tensor is
    more than a tensor."""
    if (
        is_compiling()
        or _tracing() is not None
        or _dispatching()
        or _overriding()
        or _transforming() is not None
        or _profiling()
    ):
        return False
    return type(x) in PLAIN and PLAIN.issuperset(map(type, held))


@torch.compiler.assume_constant_result
def present() -> bool:
    """Whether there is a library. The compiler asks once, while it traces."""
    return kernels().library is not None


ABSENT = (
    "the compiled library was not built: install a C++ compiler (Debian: g++) and install the"
    " package again"
)
