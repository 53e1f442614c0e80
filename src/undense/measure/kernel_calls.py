"""One call of every operation that has a compiled path, at a width and a number of tokens.

Token-chosen blocks have the sizes of `ultra-25`, the spectral mixer its defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from undense import mixing
from undense.contract import DenseShape, build
from undense.ffn.block_topk import BlockTopK
from undense.ffn.micro_refine import SparseMicroRefine
from undense.ffn.presets import resolve
from undense.kernels.grouped import grouped
from undense.kernels.native_pairs import NativePairs
from undense.kernels.pairs import Pairs
from undense.mixers.spectral_layer import SpectralLayer
from undense.ops.activation import activate
from undense.ops.causal_filter import CausalFilter
from undense.ops.output_gate import unit_gate

TAPS = 64
WIDTH = 32  # of a head of the output gate


@dataclass(frozen=True)
class Call:
    """`run` is timed; `work` is the number that a choice goes by (see `choice.CHOOSING`); `plain`:
    the other path, where it is a call of its own."""

    run: Callable[[], object]
    work: int
    plain: Callable[[], object] | None = None


def _blocks(dim: int, dtype: torch.dtype) -> BlockTopK:
    ffn = build(dim, resolve("block_topk-25", DenseShape(dim=dim, hidden=4 * dim)))
    assert isinstance(ffn, BlockTopK)
    return ffn.to(dtype).eval()


def _inference(module: nn.Module, *given: object) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return module(*given)

    return run


def _routed(dim: int, tokens: int, dtype: torch.dtype) -> Call:
    return Call(_inference(_blocks(dim, dtype), torch.randn(tokens, dim).to(dtype)), tokens)


def _trained(dim: int, tokens: int, dtype: torch.dtype) -> Call:
    ffn = _blocks(dim, dtype).train()
    x, grad = torch.randn(2, tokens, dim).to(dtype)
    x.requires_grad_()

    def run() -> tuple[Tensor, ...]:
        return torch.autograd.grad(ffn(x), [x, *ffn.parameters()], grad)

    return Call(run, tokens)


def _product(
    product: Callable[[Pairs, Tensor, Tensor, Tensor], Tensor],
) -> Callable[[int, int, torch.dtype], Call]:
    """`product` is given pairs, rows (tokens, dim), a matrix (blocks, width, dim), and values
    (pairs, width)."""

    def make(dim: int, tokens: int, dtype: torch.dtype) -> Call:
        ffn = _blocks(dim, dtype)
        k, matrix = ffn.config.chosen, ffn.up.detach()
        chosen = torch.rand(tokens, ffn.blocks).topk(k).indices
        pairs, rows = grouped(chosen, matrix), torch.randn(tokens, dim).to(dtype)
        values = torch.randn(tokens * k, matrix.shape[1])
        return Call(lambda: product(pairs, rows, matrix, values), tokens * k // ffn.blocks)

    return make


def _bent(dim: int, tokens: int, dtype: torch.dtype) -> Call:
    ffn = _blocks(dim, dtype)
    k, size = ffn.config.chosen, ffn.config.block
    chosen = torch.rand(tokens, ffn.blocks).topk(k).indices
    pairs, inner, gates = (
        grouped(chosen, ffn.up),
        torch.randn(tokens * k, size),
        torch.ones(tokens, k),
    )

    def plain() -> Tensor:
        weights = gates.flatten().index_select(0, pairs.order)[:, None]
        return activate(inner, ffn.activation) * weights

    def run() -> Tensor:
        assert isinstance(pairs, NativePairs)
        return pairs.bent(inner, size, gates, ffn.activation)

    return Call(run, tokens * k // ffn.blocks, plain)


def _micro_steps(dim: int, tokens: int, dtype: torch.dtype) -> Call:
    ffn = SparseMicroRefine(dim, SparseMicroRefine.Config()).to(dtype).eval()
    return Call(_inference(ffn, torch.randn(tokens, dim).to(dtype)), tokens)


def _mixer(dim: int) -> SpectralLayer:
    mixer = mixing.build(dim, SpectralLayer.Config())
    assert isinstance(mixer, SpectralLayer)
    return mixer.eval()


def _stretch(dim: int, tokens: int, dtype: torch.dtype) -> Call:
    return Call(_inference(_mixer(dim), torch.randn(1, tokens, dim)), tokens)


def _step(dim: int, tokens: int, dtype: torch.dtype) -> Call:
    mixer = _mixer(dim)
    with torch.no_grad():
        _, state = mixer(torch.randn(tokens, mixer.chunk + 1, dim))
    return Call(_inference(mixer, torch.randn(tokens, 1, dim), state), tokens)


def _row_filter(dim: int, tokens: int, dtype: torch.dtype) -> Call:
    taps = torch.randn(dim, TAPS, requires_grad=True)
    x = torch.randn(1, dim, TAPS - 1 + tokens, requires_grad=True)
    received = torch.randn(1, dim, tokens)

    def run() -> object:
        kernel = CausalFilter.of(taps)
        y = kernel(nn.functional.pad(x, (kernel.early - TAPS + 1, 0)))
        return torch.autograd.grad(y, [x, taps], received)

    return Call(run, tokens)


def _unit_gate(dim: int, tokens: int, dtype: torch.dtype) -> Call:
    heads = max(1, dim // WIDTH)
    z = torch.randn(1, dim, tokens, requires_grad=True)
    shape = (1, heads, dim // heads, 1, tokens)
    summands = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    received = torch.randn_like(z)

    def run() -> object:
        return torch.autograd.grad(unit_gate(z, *summands), [z, *summands], received)

    return Call(run, tokens)


CALLS: dict[str, Callable[[int, int, torch.dtype], Call]] = {
    "gather_dot": _product(
        lambda pairs, rows, matrix, values: pairs.gather_dot(rows, matrix, None)
    ),
    "scatter_add": _product(lambda pairs, rows, matrix, values: pairs.scatter_add(values, matrix)),
    "outer_sum": _product(lambda pairs, rows, matrix, values: pairs.outer_sum(values, rows)),
    "bent": _bent,
    "routed": _routed,
    "trained": _trained,
    "micro_steps": _micro_steps,
    "spectral_stretch": _stretch,
    "spectral_step": _step,
    "row_filter": _row_filter,
    "unit_gate": _unit_gate,
}
