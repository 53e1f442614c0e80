"""What the parts of spectral mixers cost where they run, in the three ways that a mixer runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from undense import cost
from undense.cost import Cost
from undense.ops.causal_filter import filter_cost
from undense.ops.causal_fir import BandedKernel
from undense.ops.chunk_scan import read_cost
from undense.ops.drive import drive_cost
from undense.ops.modal_chunks import resonate_cost
from undense.ops.output_gate import unit_gate_cost
from undense.ops.overlap_add import OverlapAddFilter
from undense.ops.spectral_parts import SpectralParts


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
    """Forward costs of the three ways that a spectral mixer runs, in the order of their parts.

    `most`: modes that a selection may wake, where it is made elsewhere than in `parts`."""

    parts: SpectralParts
    sizes: Sizes
    most: int | None = None

    def stretch(self, batch: int, time: int, *, later: bool) -> list[Cost]:
        """`later`: rows may begin inside a chunk, which is what a call with a state must assume."""
        chunks = -(-(time + (self.sizes.chunk - 1) * later) // self.sizes.chunk)
        slots, kernel = chunks * self.sizes.chunk, self.parts.kernel
        recurs = self.parts.memory is not None or self.parts.bank is not None
        summands = recurs + (kernel is not None)
        parts = [*self._around(batch, slots, summands), *self._prepared(chunks)]
        if recurs:
            full = not later and time == slots
            parts += self._recurrences(batch, chunks, later=later, full=full)
        if isinstance(kernel, BandedKernel):
            parts.append(filter_cost("filter", batch, slots, kernel))
            parts.append(cost.fan_out("values used", batch * slots * self.sizes.dim, 1 + recurs))
        return parts

    def both_ways(self, batch: int, time: int) -> list[Cost]:
        """The recurrences twice, and what is turned round for the second."""
        chunks = -(-time // self.sizes.chunk)
        slots, kernel = chunks * self.sizes.chunk, self.parts.kernel
        recurs = self.parts.memory is not None or self.parts.bank is not None
        summands = 2 * recurs + (kernel is not None)
        parts = [*self._around(batch, slots, summands), *self._prepared(chunks)]
        if recurs:
            parts += self._recurrences(batch, chunks, later=False, full=time == slots) * 2
            driven = batch * slots * (self.sizes.mixed + self.sizes.plain - self.sizes.dim)
            turned = driven + batch * slots * self.sizes.dim
            parts.append(cost.gather("turned round", turned * (time < slots)))
            parts.append(cost.fan_out("streams used", driven, 2))
            parts.append(cost.fan_out("weights used", self._weights_used_again(chunks), 2))
        if isinstance(kernel, OverlapAddFilter):
            parts.append(kernel.cost("filter", batch, slots))
            parts.append(cost.fan_out("values used", batch * slots * self.sizes.dim, 1 + recurs))
        return parts

    def _prepared(self, chunks: int) -> list[Cost]:
        """What is made once a call from the weights alone."""
        parts: list[Cost] = []
        if isinstance(self.parts.kernel, BandedKernel):
            parts.append(self.parts.kernel.cost("kernel"))
        if self.parts.bank is not None:
            parts.append(self.parts.bank.tables_cost("tables", self.sizes.chunk))
            parts.append(self.parts.bank.carry_cost("map between chunks", chunks))
        return parts

    def _weights_used_again(self, chunks: int) -> int:
        """Numbers whose gradients from both directions are added up."""
        total = 0
        if self.parts.memory is not None:
            total += 2 * self.sizes.heads
        if self.parts.gates is not None:
            total += sum(p.numel() for p in self.parts.gates.parameters())
        if self.parts.bank is not None:
            modes = self.sizes.heads * self.parts.bank.modes
            total += modes * (6 * self.sizes.chunk + 4 * (chunks + 1) ** 2)
        return total

    def _recurrences(self, batch: int, chunks: int, *, later: bool, full: bool) -> list[Cost]:
        sizes, features, parts = self.sizes, [], []
        rows, slots = batch * chunks * sizes.heads, chunks * sizes.chunk
        if self.parts.memory is not None:
            features.append(self.parts.memory.features)
            parts.append(
                self.parts.memory.chunks_cost("memory", batch, chunks, sizes.chunk, sizes.width)
            )
        most = self.most
        if self.parts.selector is not None:
            most = self.parts.selector.most
            parts.append(
                self.parts.selector.over_chunks_cost(
                    "selector", batch, chunks, sizes.chunk, sizes.dim
                )
            )
        if self.parts.gates is not None:
            parts.append(self.parts.gates.cost("gates", batch, slots))
        if self.parts.bank is not None:
            features.append(2 * (most or self.parts.bank.modes))
            parts.append(
                resonate_cost(
                    self.parts.bank,
                    batch,
                    chunks,
                    sizes.chunk,
                    sizes.width,
                    most=most,
                    gated=self.parts.gates is not None,
                    later=later,
                    full=full,
                )
            )
        parts.append(read_cost("read", rows, sizes.chunk, sizes.width, features))
        parts.append(cost.fan_out("values used", batch * slots * sizes.dim, 1 + len(features)))
        return parts

    def step(self, batch: int, past: int) -> list[Cost]:
        numbers, parts = batch * self.sizes.dim, self.parts
        summands = sum(part is not None for part in (parts.kernel, parts.memory, parts.bank))
        found = self._around(batch, 1, summands)
        if parts.memory is not None:
            found.append(parts.memory.step_cost("memory", batch, self.sizes.width))
        if parts.selector is not None:
            begins = past % self.sizes.chunk == 0
            found.append(parts.selector.step_cost("selector", batch, self.sizes.dim, begins=begins))
        if parts.gates is not None:
            found.append(parts.gates.cost("gates", batch, 1))
        if parts.bank is not None:
            found.append(
                parts.bank.step_cost(
                    "modes",
                    batch,
                    self.sizes.width,
                    gated=parts.gates is not None,
                    chosen=self.most is not None or parts.selector is not None,
                )
            )
        if isinstance(parts.kernel, BandedKernel):
            found.append(parts.kernel.cost("kernel"))
            found.append(cost.elementwise("filter", numbers * parts.kernel.taps, forward=2, macs=1))
        return found

    def _around(self, batch: int, slots: int, summands: int) -> list[Cost]:
        """The projections, the short convolution, and the gate of the output."""
        sizes, tokens = self.sizes, batch * slots
        out = cost.linear("out", tokens, sizes.dim, sizes.dim, bias=False)
        return [
            drive_cost("in", batch, slots, sizes.dim, sizes.conv, sizes.mixed, sizes.plain),
            unit_gate_cost("gate", tokens * sizes.dim, sizes.width, summands=summands),
            replace(out, backward=out.backward + batch * sizes.dim**2),
        ]
