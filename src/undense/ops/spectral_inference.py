"""A spectral mixer as two operations, for inference on a CPU: over many tokens, and over one.

Step by step a segment is some six hundred operations, each over memory, and a token a hundred for a
few microseconds of work. Here the projections are products of a few hundred tokens, and all between
them is done a chunk at a time in the processor's caches. What is computed is what `SpectralMixer`
computes step by step when gradients are wanted, and it is priced as that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from undense.kernels.native_spectral import chunk_sums, padded, run
from undense.ops.band_gates import BandGates
from undense.ops.causal_fir import BandedKernel
from undense.ops.content_memory import ContentMemory
from undense.ops.modal_bank import ModalBank
from undense.ops.spectral_cost import Sizes, SpectralCost
from undense.ops.spectral_parts import SpectralParts
from undense.ops.spectral_tables import (
    Derived,
    Weights,
    derived_of,
    mixer_words,
    sizes_of,
    weights_from,
)

# Tokens between two products with the projections: enough for them to run at full rate, few enough
# for what lies between them to stay near the core.
TOKENS = 512

_LIBRARY = torch.library.Library("undense", "FRAGMENT")
_LIBRARY.define(
    "spectral_sums(Tensor x, Tensor recent, Tensor? lengths, Tensor? offset, Tensor weight,"
    " Tensor conv, int chunk, int chunks) -> Tensor"
)
_LIBRARY.define(
    "spectral_stretch(Tensor x, Tensor? lengths, Tensor? offset, Tensor? awake, Tensor? open,"
    " Tensor[] state, Tensor?[] weights, int heads, int chunk, int segment) -> Tensor[]"
)
_LIBRARY.define(
    "spectral_step(Tensor x, Tensor positions, Tensor? awake, Tensor[] state, Tensor?[] weights,"
    " int heads, int chunk) -> Tensor[]"
)


def _rows(numbers: Tensor | None, batch: int, otherwise: int) -> list[int]:
    return [otherwise] * batch if numbers is None else numbers.tolist()


def _run_sums(
    x: Tensor,
    recent: Tensor,
    lengths: Tensor | None,
    offset: Tensor | None,
    weight: Tensor,
    conv: Tensor,
    chunk: int,
    chunks: int,
) -> Tensor:
    """Sums of the convolved values of every chunk, (batch, chunks, dim): the sum of a convolution
    of a projection is a combination of projected sums."""
    batch, time, dim = x.shape
    ends, starts = _rows(lengths, batch, time), _rows(offset, batch, 0)
    taps = conv[:dim].T  # (conv, dim)
    found = [
        chunk_sums(row[:end].contiguous(), before.contiguous(), start, chunk, chunks)
        for row, before, end, start in zip(x, recent, ends, starts, strict=True)
    ]
    return (torch.stack(found) @ weight[:dim].T * taps).sum(2)


def _run_stretch(
    x: Tensor,
    lengths: Tensor | None,
    offset: Tensor | None,
    awake: Tensor | None,
    open: Tensor | None,
    state: list[Tensor],
    weights: list[Tensor | None],
    heads: int,
    chunk: int,
    segment: int,
) -> list[Tensor]:
    del segment  # of the price alone
    batch, time, dim = x.shape
    w = weights_from(weights)
    modes = 0 if w.decay is None else w.decay.shape[1]
    sizes = sizes_of(w, heads, chunk, modes if awake is None else awake.shape[3])
    derived = derived_of(w, heads, chunk)
    mixer, kept = mixer_words(w, derived, sizes)
    recent, values, memory, resonance = state
    early, before, width = sizes.conv - 1, sizes.taps - 1, dim // heads
    streams = 2 * heads * sizes.features
    most = min(TOKENS, time)
    rows = before + most
    stride = padded(early + most) + PADDED_READ
    others = len(w.project_in) - 2 * dim - streams - sizes.fan
    *project, to_logits = w.project_in.split([dim, streams, dim, others, sizes.fan])
    to_logits = to_logits.contiguous()
    joined, out = x.new_empty(early + most, dim), x.new_empty(most, dim)
    projected, gate = x.new_empty(early + most, dim), x.new_empty(most + 1, dim)
    mixed, plain = x.new_empty(streams, stride), x.new_empty(others, stride)
    history = x.new_zeros(heads, rows, padded(width))
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    after = [torch.empty_like(part, memory_format=torch.contiguous_format) for part in state]
    chunks = 1 if awake is None else awake.shape[2]
    awake, open = (None if part is None else part.contiguous() for part in (awake, open))
    ends, starts = _rows(lengths, batch, time), _rows(offset, batch, 0)
    for b in range(batch):
        tokens, end = x[b].contiguous(), ends[b]
        history[:, :before, :width] = values[b].unflatten(0, (heads, width)).mT if before else 0
        after[2][b], after[3][b] = memory[b], resonance[b]
        for at in range(0, end, most):
            n = min(most, end - at)
            if at >= early:
                source = tokens[at - early : at + n]
            else:
                source = torch.cat([recent[b, at:], tokens[: at + n]], out=joined[: early + n])
            here = source[early:]
            torch.mm(source, project[0].T, out=projected[: early + n])
            torch.mm(here, project[2].T, out=gate[:n])
            if streams:
                torch.mm(project[1], source.T, out=mixed[:, : early + n])
            if len(plain):
                torch.mm(project[3], here.T, out=plain[:, :n])
            slot = starts[b] + at
            chosen = (None, None)
            if awake is not None and open is not None:
                chosen = (awake[b, 0, slot // chunk], open[b, 0, slot // chunk])
            run(
                "spectral_stretch",
                mixer,
                (
                    *(n, slot % chunk, projected, gate, mixed, plain, here, to_logits),
                    *(stride, stride),
                    *(*chosen, chunks, history, rows, None),
                    *(after[2][b], after[2][b], after[3][b], after[3][b], out),
                ),
            )
            torch.mm(out[:n], w.project_out.T, out=y[b, at : at + n])
        y[b, end:] = 0
        after[0][b] = (
            tokens[end - early : end]
            if end >= early
            else torch.cat([recent[b, end:], tokens[:end]])
        )
        if before:
            after[1][b] = history[:, :before, :width].mT.flatten(0, 1)
    del kept
    return [y, *after]


PADDED_READ = 16  # numbers behind a row that the kernels may read


def _run_step(
    x: Tensor,
    positions: Tensor,
    awake: Tensor | None,
    state: list[Tensor],
    weights: list[Tensor | None],
    heads: int,
    chunk: int,
) -> list[Tensor]:
    """`state`: recent inputs and values, memory, modes, and of a selection means and running."""
    w = weights_from(weights)
    modes = 0 if w.decay is None else w.decay.shape[1]
    sizes = sizes_of(w, heads, chunk, modes)
    derived = derived_of(w, heads, chunk)
    mixer, kept = mixer_words(w, derived, sizes)
    inward, outward = w.project_in.contiguous(), w.project_out.contiguous()
    found = next_token(mixer, derived, inward, outward, chunk, x, positions, awake, state)
    del kept
    return found


def next_token(
    mixer: Any, derived: Derived, inward: Tensor, outward: Tensor, chunk: int,
    x: Tensor, positions: Tensor, awake: Tensor | None, state: list[Tensor],
) -> list[Tensor]:  # fmt: skip
    """`mixer`: from `mixer_words`; `inward`, `outward`: the projections, contiguous."""
    x = x.contiguous()
    given = [part.contiguous() for part in state]
    y, after = torch.empty_like(x), [torch.empty_like(part) for part in given]
    history = 0
    if awake is not None:
        history = given[4].shape[1]
        given.append(awake.contiguous())
        after.append(torch.empty_like(given[-1]))
    # addresses, not views of rows: at one token a view takes as long as a small part
    start, end = ([part.data_ptr() for part in parts] for parts in (given, after))
    first, last = x.data_ptr(), y.data_ptr()
    for b, position in enumerate(positions.tolist()):
        if b:
            steps = [part.nbytes // len(x) for part in given]
            start, end = ([a + n for a, n in zip(at, steps, strict=True)] for at in (start, end))
        selection = (0, 0, 0, 0, 0, 0, 0, 0)
        if awake is not None:
            ends = int(position % chunk == chunk - 1)
            selection = (history, ends, start[6], end[6], start[4], end[4], start[5], end[5])
        row = b * x.shape[2] * x.itemsize
        run(
            "spectral_step",
            mixer,
            (
                *(start[0], end[0], first + row, inward, outward),
                *(derived.reversed, derived.first, start[1], end[1], start[2], end[2]),
                *(start[3], end[3], *selection, last + row),
            ),
        )
    return [y, *after]


_LIBRARY.impl("spectral_sums", _run_sums, "CPU")
_LIBRARY.impl("spectral_stretch", _run_stretch, "CPU")
_LIBRARY.impl("spectral_step", _run_step, "CPU")


@torch.library.register_fake("undense::spectral_sums")
def _(x: Tensor, recent: Tensor, lengths: Any, offset: Any, weight: Any, conv: Any, chunk: int,
      chunks: int) -> Tensor:  # fmt: skip
    return x.new_empty(len(x), chunks, x.shape[2])


@torch.library.register_fake("undense::spectral_stretch")
def _(x: Tensor, lengths: Any, offset: Any, awake: Any, open: Any, state: list[Tensor],
      *_: Any) -> list[Tensor]:  # fmt: skip
    return [torch.empty_like(part, memory_format=torch.contiguous_format) for part in (x, *state)]


@torch.library.register_fake("undense::spectral_step")
def _(x: Tensor, positions: Any, awake: Tensor | None, state: list[Tensor],
      *_: Any) -> list[Tensor]:  # fmt: skip
    parts = (x, *state) if awake is None else (x, *state, awake)
    return [torch.empty_like(part, memory_format=torch.contiguous_format) for part in parts]


def _cost(weights: Any, heads: int, chunk: int, most: int | None) -> SpectralCost:
    """From the shapes of the weights, as if step by step."""
    w: Any = Weights._make(weights)
    dim, taps = w.project_out[0], w.conv[1]
    seen = w.conv[0]
    with torch.device("meta"):
        gates = bank = None
        if w.gate_bias is not None:
            gates = BandGates(
                dim, heads, exchange=w.up is not None, phases=w.amplitude is not None,
                thresholds=w.threshold is not None, dropout=0, band_dropout=0, entropy=0,
            )  # fmt: skip
        if w.decay is not None:
            bank = ModalBank(heads, modes=w.decay[1])
        parts = SpectralParts(
            kernel=None if w.raw is None else BandedKernel(dim, heads, taps=w.raw[1]),
            memory=None
            if w.decay_bias is None
            else ContentMemory(heads, features=(seen - dim) // (2 * heads)),
            bank=bank,
            gates=gates,
        )
    plain = w.project_in[0] - seen
    sizes = Sizes(dim=dim, heads=heads, chunk=chunk, conv=taps, mixed=seen, plain=plain)
    return SpectralCost(parts, sizes, most)


@register_flop_formula(torch.ops.undense.spectral_sums)
def _sums_flops(x: Any, recent: Any, lengths: Any, offset: Any, weight: Any, conv: Any,
                chunk: int, chunks: int, **_: Any) -> int:  # fmt: skip
    """Every convolved value once."""
    return x[0] * chunks * chunk * x[2]


@register_flop_formula(torch.ops.undense.spectral_stretch)
def _stretch_flops(x: Any, lengths: Any, offset: Any, awake: Any, open: Any, state: Any,
                   weights: Any, heads: int, chunk: int, segment: int,
                   **_: Any) -> int:  # fmt: skip
    batch, time, _ = x
    price = _cost(weights, heads, chunk, None if awake is None else awake[3])
    return sum(
        part.forward
        for start in range(0, time, segment)
        for part in price.stretch(batch, min(segment, time - start), later=offset is not None)
    )


@register_flop_formula(torch.ops.undense.spectral_step)
def _step_flops(x: Any, positions: Any, awake: Any, state: Any, weights: Any, heads: int,
                chunk: int, **_: Any) -> int:  # fmt: skip
    running = 0 if awake is None else 2 * x[0] * x[2]
    price = _cost(weights, heads, chunk, None if awake is None else awake[2])
    return running + sum(part.forward for part in price.step(x[0], 1))
