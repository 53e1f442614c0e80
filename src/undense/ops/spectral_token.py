"""The next token of one spectral mixer, called without PyTorch's dispatcher.

A decoded token is some sixty microseconds of work (d=256). Finding two dozen weights, checking that
nobody put anything else in their place, and handing them to the dispatcher took twice as long:
here what was found is kept, and only whether it still holds is looked at.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from undense.kernels.held import untouched
from undense.kernels.library import serves
from undense.mixing import Slot, State
from undense.ops.spectral_inference import next_token
from undense.ops.spectral_parts import SpectralParts
from undense.ops.spectral_tables import Weights, derived_of, mixer_words, same_bits, sizes_of

_known: weakref.WeakKeyDictionary[nn.Module, Token] = weakref.WeakKeyDictionary()


def known(own: nn.Module, x: Tensor, state: State, slots: Sequence[Slot]) -> Token | None:
    """What was found for this mixer, if it still holds and nobody watches the operations."""
    if own.training or x.dtype != torch.float32 or not serves(x) or watched(x):
        return None
    token = _known.get(own)
    if token is None or not token.holds() or not alike_state(state, slots):
        return None
    return token


def remember(
    own: nn.Module,
    parts: SpectralParts,
    weights: Weights | None,
    x: Tensor,
    heads: int,
    chunk: int,
) -> None:
    """Keep what was found, if anything, where that can be looked at again."""
    if weights is None or watched(x):
        return
    token = Token(own, parts, weights, heads, chunk)
    if token.complete(weights):
        _known[own] = token


def alike_state(state: State, slots: Sequence[Slot]) -> bool:
    """Whether a state is on the CPU in the dtypes of a model in fp32."""
    for tensor, slot in zip(state, slots, strict=True):
        if tensor.dtype != (slot.dtype or torch.float32) or not tensor.is_cpu:
            return False
    return True


def watched(x: Tensor) -> bool:
    """Whether a compiler, a tracer, a transform, a counter or a subclass of tensors is to see the
    operations."""
    return (
        torch.compiler.is_compiling()
        or type(x) is not Tensor
        or torch._C._get_tracing_state() is not None
        or torch._C._functorch.maybe_current_level() is not None  # type: ignore[attr-defined]
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
    )


def inside(module: nn.Module, but: nn.Module | None) -> Iterator[nn.Module]:
    """All modules in this one, without `but` and what is in that."""
    for child in module._modules.values():
        if child is not None and child is not but:
            yield child
            yield from inside(child, but)


def evaluating(modules: Iterable[nn.Module]) -> bool:
    """Whether none of them is in training mode: someone may want dropout alone."""
    for module in modules:  # noqa: SIM110  (a generator would take twice as long)
        if module.training:
            return False
    return True


class Token:
    """Where the weights of a mixer lie, and the structure that the kernel reads them by."""

    def __init__(
        self, own: nn.Module, parts: SpectralParts, weights: Weights, heads: int, chunk: int
    ) -> None:
        self.heads, self.chunk = heads, chunk
        modes = 0 if weights.decay is None else weights.decay.shape[1]
        sizes = sizes_of(weights, heads, chunk, modes)
        self.derived = derived_of(weights, heads, chunk)
        self.words, self.tables = mixer_words(weights, self.derived, sizes)
        self.inward, self.outward = weights.project_in, weights.project_out
        sources = (weights.raw, weights.scale, weights.window, weights.shapes, weights.octave)
        modal = (weights.decay, weights.phase, weights.gain)
        self.sources = [source for source in (*sources, *modal) if source is not None]
        self.copies = [source.clone() for source in self.sources]
        self.bits = [
            (source.data_ptr(), copy.data_ptr(), copy.nbytes)
            for source, copy in zip(self.sources, self.copies, strict=True)
        ]
        self.inside = list(inside(own, parts.selector))
        # `own` itself is not kept: it is what this is forgotten with
        self.children = [
            (holder._modules, name, child)
            for holder in (own, *self.inside)
            for name, child in holder._modules.items()
            if child is not parts.selector
        ]
        self.places = [
            (held, name, tensor, tensor.data_ptr(), tensor.dtype)
            for holder in (own, *self.inside)
            for held in (holder._parameters, holder._buffers)
            for name, tensor in held.items()
            if tensor is not None
        ]

    def complete(self, weights: Weights) -> bool:
        """Whether every weight is one of those looked at, as it lies."""
        seen = {id(tensor) for _, _, tensor, _, _ in self.places}
        return all(t is None or (id(t) in seen and t.is_contiguous()) for t in weights)

    def holds(self) -> bool:
        """Whether everything is where it was and as it was, to the bit where tables follow."""
        for held, name, child in self.children:
            if held.get(name) is not child:
                return False
        for held, name, tensor, at, dtype in self.places:
            if held.get(name) is not tensor or tensor.data_ptr() != at or tensor.dtype != dtype:
                return False
            if not tensor.is_contiguous():  # as if turned in its place
                return False
        return untouched(self.inside) and evaluating(self.inside) and same_bits(self.bits)

    def __call__(
        self, x: Tensor, positions: Tensor, awake: Tensor | None, state: list[Tensor]
    ) -> list[Tensor]:
        """As `undense::spectral_step`."""
        return next_token(
            self.words, self.derived, self.inward, self.outward, self.chunk,
            x, positions, awake, state,
        )  # fmt: skip
