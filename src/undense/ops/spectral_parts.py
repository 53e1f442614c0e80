"""What spectral mixers are made of, and what the parts cost where they run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from undense import cost
from undense.cost import Cost
from undense.mixing import MixerConfig
from undense.ops.band_gates import BandGates
from undense.ops.causal_fir import BandedKernel, direct_cost, overlap_save_cost
from undense.ops.chunk_scan import read_cost
from undense.ops.content_memory import ContentMemory
from undense.ops.modal_bank import ModalBank
from undense.ops.modal_chunks import resonate_cost
from undense.ops.mode_selector import ModeSelector
from undense.ops.overlap_add import OverlapAddFilter


@dataclass(frozen=True, kw_only=True)
class SpectralMixerConfig(MixerConfig):
    """`heads`: share nothing but the projections. `chunk`: tokens between two states; modes are
    selected once a chunk. `conv_width`: taps of the short causal convolution."""

    heads: int = 4
    chunk: int = 64
    conv_width: int = 4


@dataclass(frozen=True, kw_only=True)
class SpectralParts:
    """What a spectral mixer is made of; None where it has no such part."""

    kernel: BandedKernel | OverlapAddFilter | None = None
    memory: ContentMemory | None = None
    bank: ModalBank | None = None
    gates: BandGates | None = None
    selector: ModeSelector | None = None


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """`conv`: taps of the short convolution; `mixed`, `plain`: how many projections it sees, and
    how many it does not."""

    dim: int
    heads: int
    chunk: int
    conv: int
    mixed: int
    plain: int

    @property
    def width(self) -> int:
        """Of a head."""
        return self.dim // self.heads


@dataclass(frozen=True)
class SpectralCost:
    """Forward costs of the three ways that a spectral mixer runs, in the order of their parts."""

    parts: SpectralParts
    sizes: Sizes

    def stretch(self, batch: int, time: int, *, later: bool) -> list[Cost]:
        """`later`: rows may begin inside a chunk, which is what a call with a state must assume."""
        parts = self._around(batch, time)
        recurrences = self._recurrences(batch, time, later=later)
        parts += recurrences
        if isinstance(self.parts.kernel, BandedKernel):
            parts.append(self.parts.kernel.cost("kernel"))
            parts.append(
                overlap_save_cost("filter", batch, time, self.parts.kernel.taps, self.sizes.dim)
            )
            parts += [cost.add("sum", batch * time * self.sizes.dim)] * bool(recurrences)
        return parts

    def both_ways(self, batch: int, time: int) -> list[Cost]:
        sums = cost.add("sum", batch * time * self.sizes.dim)
        parts = self._around(batch, time)
        recurrences = self._recurrences(batch, time, later=False)
        if recurrences:
            parts += [*recurrences, *recurrences, sums]
        if isinstance(self.parts.kernel, OverlapAddFilter):
            parts.append(self.parts.kernel.cost("filter", batch, time))
            parts += [sums] * bool(recurrences)
        return parts

    def _recurrences(self, batch: int, time: int, *, later: bool) -> list[Cost]:
        chunks = -(-(time + (self.sizes.chunk - 1 if later else 0)) // self.sizes.chunk)
        features: list[int] = []
        parts: list[Cost] = []
        rows = batch * chunks * self.sizes.heads
        if self.parts.memory is not None:
            features.append(self.parts.memory.features)
            parts.append(
                self.parts.memory.chunks_cost(
                    "memory", batch, time, chunks, self.sizes.chunk, self.sizes.width
                )
            )
        most = None
        if self.parts.selector is not None:
            most = self.parts.selector.most
            parts.append(
                self.parts.selector.over_chunks_cost(
                    "selector", batch, chunks, self.sizes.chunk, self.sizes.dim
                )
            )
        if self.parts.gates is not None:
            parts.append(self.parts.gates.cost("gates", batch * time, self.sizes.dim))
        if self.parts.bank is not None:
            features.append(2 * (most or self.parts.bank.modes))
            wound = later + (later or time % self.sizes.chunk > 0)
            parts.append(
                resonate_cost(
                    self.parts.bank,
                    batch,
                    chunks,
                    self.sizes.chunk,
                    self.sizes.width,
                    most=most,
                    gated=self.parts.gates is not None,
                    wound_back=wound,
                )
            )
        if features:
            parts.append(read_cost("read", rows, self.sizes.chunk, self.sizes.width, features))
        return parts

    def step(self, batch: int, past: int) -> list[Cost]:
        numbers = batch * self.sizes.dim
        parts = self._around(batch, 1)
        if self.parts.memory is not None:
            parts.append(self.parts.memory.step_cost("memory", batch, self.sizes.width))
        if self.parts.selector is not None:
            begins = past % self.sizes.chunk == 0
            parts.append(
                self.parts.selector.step_cost("selector", batch, self.sizes.dim, begins=begins)
            )
        if self.parts.gates is not None:
            parts.append(self.parts.gates.cost("gates", batch, self.sizes.dim))
        if self.parts.bank is not None:
            parts.append(
                self.parts.bank.step_cost(
                    "modes",
                    batch,
                    self.sizes.width,
                    gated=self.parts.gates is not None,
                    chosen=self.parts.selector is not None,
                )
            )
        both = self.parts.memory is not None and self.parts.bank is not None
        if isinstance(self.parts.kernel, BandedKernel):
            taps = self.parts.kernel.taps
            parts.append(self.parts.kernel.cost("kernel"))
            parts.append(cost.elementwise("filter", numbers * taps, forward=2, macs=1))
            both = both + (self.parts.memory is not None or self.parts.bank is not None)
        parts.append(cost.add("sums", numbers * both))
        return parts

    def _around(self, batch: int, time: int) -> list[Cost]:
        """The projections, the short convolution, and the gate of the output."""
        tokens, earlier = batch * time, self.sizes.conv - 1
        inner = self.sizes.mixed + self.sizes.plain
        numbers = tokens * self.sizes.dim
        return [
            cost.linear("in", tokens + batch * earlier, self.sizes.dim, inner, bias=False),
            direct_cost("short convolution", tokens, self.sizes.conv, self.sizes.mixed),
            cost.elementwise("power", numbers, forward=2, macs=1),
            cost.elementwise("power floor", tokens * self.sizes.heads, forward=2),
            cost.elementwise("unit power", numbers),
            cost.activation("silu", numbers, "silu"),
            cost.product("gate", numbers),
            cost.linear("out", tokens, self.sizes.dim, self.sizes.dim, bias=False),
        ]


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """The dtype that recurrences run in: transforms and long sums cannot be done in half."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
