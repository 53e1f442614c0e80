"""What the compiled spectral mixer reads: the weights, and what follows from them alone."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from undense.kernels.held import all_held, held, plain, there, within
from undense.kernels.native_spectral import Sizes, Tables, padded, words
from undense.ops.band_gates import BandGates
from undense.ops.causal_fir import BandedKernel, banded
from undense.ops.modal_bank import mode_tables, rates_of
from undense.ops.spectral_parts import SpectralParts
from undense.ops.windows import mixed_window

LONGEST = 512  # taps; beyond it transforms are quicker
GATES = ("threshold", "sharpness", "residual", "amplitude", "frequency", "shift")
KEPT = 256  # mixers whose derived tables are kept


class Weights(NamedTuple):
    """What a spectral mixer holds; None where a part is not there. Shapes are the modules'."""

    project_in: Tensor
    conv: Tensor
    project_out: Tensor
    raw: Tensor | None
    scale: Tensor | None
    window: Tensor | None
    shapes: Tensor | None
    octave: Tensor | None
    decay_bias: Tensor | None
    write_bias: Tensor | None
    decay: Tensor | None
    phase: Tensor | None
    gain: Tensor | None
    gate_bias: Tensor | None
    up: Tensor | None
    up_bias: Tensor | None
    down: Tensor | None
    down_bias: Tensor | None
    threshold: Tensor | None
    sharpness: Tensor | None
    residual: Tensor | None
    amplitude: Tensor | None
    frequency: Tensor | None
    shift: Tensor | None


def weights_of(own: nn.Module, parts: SpectralParts) -> Weights | None:
    """The weights that the operations read in place of calling the parts within; None where those
    have to be called. `own` has `project_in`, `conv`, `project_out`."""
    kernel, memory, bank, gates = parts.kernel, parts.memory, parts.bank, parts.gates
    project_in, project_out = within(own, "project_in"), within(own, "project_out")
    if not (plain(project_in, nn.Linear) and plain(project_out, nn.Linear)):
        return None
    up = down = None
    if not plain(gates, BandGates):
        return None
    if gates is not None and gates.exchange is not None:
        up, gelu, _, down = gates.exchange
        whole = plain(up, nn.Linear) and plain(down, nn.Linear) and plain(gelu, nn.GELU)
        if not whole or getattr(gelu, "approximate", None) != "none":
            return None
    window = None
    if kernel is not None:
        window = kernel.window
        if not isinstance(kernel, BandedKernel) or kernel.taps > LONGEST:
            return None
        if not plain(kernel, BandedKernel) or not plain(window, type(window)):
            return None
    linear = ("weight", "bias")
    found = (
        held(project_in, "weight"),
        there(own, "conv"),
        held(project_out, "weight"),
        *all_held(kernel, ("raw", "scale")),
        *all_held(window, ("logits", "shapes")),
        None if kernel is None else kernel.octave,
        *all_held(memory, ("decay_bias", "write_bias")),
        *all_held(bank, ("decay", "phase", "gain")),
        held(gates, "bias"),
        *all_held(up, linear),
        *all_held(down, linear),
        *all_held(gates, GATES),
    )
    return weights_from(found)


def weights_from(found: Iterable[Any]) -> Weights:
    """In the order of their names."""
    return Weights._make(found)


class Derived(NamedTuple):
    """What is made of the filter's and the modes' parameters, padded as the kernels want it.

    `kernel` (heads, taps, padded width); `reversed` (dim, padded taps - 1), the kernel without its
    first tap, the last one first; `first` (dim,); `powers` (heads, modes, 2, chunk + 1) fp64;
    `keys` and `reads` (heads * modes, 2, padded chunk).
    """

    kernel: Tensor | None
    reversed: Tensor | None
    first: Tensor | None
    powers: Tensor | None
    keys: Tensor | None
    reads: Tensor | None


def sizes_of(w: Weights, heads: int, chunk: int, most: int) -> Sizes:
    """`most`: modes that a selection may wake in a chunk."""
    dim = w.project_out.shape[0]
    features = 0 if w.decay_bias is None else (len(w.conv) - dim) // (2 * heads)
    return Sizes(
        dim=dim,
        heads=heads,
        features=features,
        modes=0 if w.decay is None else w.decay.shape[1],
        most=most,
        chunk=chunk,
        conv=w.conv.shape[1],
        taps=1 if w.raw is None else w.raw.shape[1],
        stride=padded(chunk),
        fan=0 if w.gate_bias is None else len(w.gate_bias),
        hidden=0 if w.up is None else len(w.up),
    )


def mixer_words(
    w: Weights, derived: Derived, sizes: Sizes
) -> tuple[ctypes.Array[ctypes.c_int64], list[Tensor | None]]:
    """The structure that the kernels read, and what must live as long as it is used."""
    tables = Tables(
        w.conv, derived.kernel, w.decay_bias, w.write_bias, derived.powers, derived.keys,
        derived.reads, *w[Weights._fields.index("gate_bias") :],
    )  # fmt: skip
    kept = [None if t is None else t.contiguous() for t in tables]
    return words([*sizes, *kept]), kept


_same = ctypes.CDLL(None).memcmp
_same.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_kept: dict[tuple[int, int, int], tuple[list[Tensor | None], Derived]] = {}


def derived_of(w: Weights, heads: int, chunk: int) -> Derived:
    """Made once for the same parameters: a decoded token would take longer to make them than for
    everything else. Whether they are the same is found by comparing every bit with a copy, since
    a parameter may be written to behind any counter (through `.data`, through another process)."""
    sources = (w.raw, w.scale, w.window, w.shapes, w.octave, w.decay, w.phase, w.gain)
    first = w.raw if w.raw is not None else w.decay
    key = (0 if first is None else first.data_ptr(), heads, chunk)
    if key in _kept:
        copies, found = _kept[key]
        if _equal(sources, copies):
            return found
    found = _derive(w, heads, chunk)
    while len(_kept) >= KEPT:
        _kept.pop(next(iter(_kept)), None)
    # copies in the order of their numbers, which is what bits of contiguous parameters stand for
    copies = [
        None if t is None else t.clone(memory_format=torch.contiguous_format) for t in sources
    ]
    _kept[key] = (copies, found)
    return found


def same_bits(places: Iterable[tuple[int, int, int]]) -> bool:
    """Whether what lies at two addresses, so many bytes each, is the same."""
    for one, other, size in places:  # noqa: SIM110  (a generator would take twice as long)
        if _same(one, other, size):
            return False
    return True


def _equal(ours: Iterable[Tensor | None], others: Iterable[Tensor | None]) -> bool:
    for one, other in zip(ours, others, strict=True):
        if one is None or other is None:
            if one is not other:
                return False
            continue
        alike = one.shape == other.shape and one.dtype == other.dtype and one.is_contiguous()
        if not alike or _same(one.data_ptr(), other.data_ptr(), other.nbytes):
            return False
    return True


def _derive(w: Weights, heads: int, chunk: int) -> Derived:
    kernel = backwards = first = powers = keys = reads = None
    if w.raw is not None:
        assert w.scale is not None and w.window is not None
        assert w.shapes is not None and w.octave is not None
        taps = banded(w.raw, w.scale, mixed_window(w.window, w.shapes), w.octave)  # (dim, taps)
        dim, count = taps.shape
        width = dim // heads
        kernel = taps.new_zeros(heads, count, padded(width))
        kernel[..., :width] = taps.unflatten(0, (heads, width)).mT
        backwards = taps.new_zeros(dim, padded(count - 1))
        backwards[:, : count - 1] = taps[:, 1:].flip(1)
        first = taps[:, 0].clone()
    if w.decay is not None:
        assert w.phase is not None and w.gain is not None
        rates = rates_of(w.decay, w.phase)
        powers = rates.powers(torch.arange(chunk + 1)).contiguous()
        tables = mode_tables(rates, w.gain, chunk, torch.float32)
        keys, reads = (
            nn.functional.pad(t, (0, padded(chunk) - chunk)).contiguous()
            for t in (tables.keys, tables.queries[:, 0])
        )
    return Derived(kernel, backwards, first, powers, keys, reads)
