"""The stream that every spectral mixer runs: filters, modes and a memory over shared projections.

A spectral mixer says which parts it is made of; this file runs them, over a whole chunk or one
token, with the same state. Floors: mixers are built on it, it knows none of them.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from undense import cost
from undense.cost import Cost
from undense.errors import UndenseError
from undense.mixing import POSITIONS, MixerConfig, SequenceMixer, Slot, State, require_finite
from undense.ops.band_gates import BandGates
from undense.ops.causal_fir import (
    BandedKernel,
    direct,
    direct_cost,
    overlap_save,
    overlap_save_cost,
)
from undense.ops.chunk_scan import Features, read, read_cost
from undense.ops.content_memory import ContentMemory
from undense.ops.modal_bank import LONGEST_CHUNK, ModalBank
from undense.ops.modal_chunks import resonate, resonate_cost
from undense.ops.mode_selector import HISTORY, ModeSelector, Past
from undense.ops.padding import Grid, Packing
from undense.registry import Config

Streams = tuple[Tensor, Tensor, Tensor, Tensor]
POWER_FLOOR = 1e-3  # under the outputs' root mean square, so that silence stays silent
# Tokens of one pass without gradients: what lies between two layers then stays in the cache.
SEGMENT = 2048


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

    kernel: BandedKernel | None = None
    memory: ContentMemory | None = None
    bank: ModalBank | None = None
    gates: BandGates | None = None
    selector: ModeSelector | None = None


class SpectralMixer(SequenceMixer):
    """y = W_out (silu(z) * norm(filter(v) + modes(v) + memory(q, k, v))), with v, q, k the short
    causal convolution of projections of x, and z another projection.

    State: the inputs that filters still reach, the memory, the modes (fp64), and of a selector the
    means of past chunks.
    """

    def __init__(self, dim: int, config: SpectralMixerConfig) -> None:
        super().__init__(dim, config)
        name, heads = self.component, config.heads
        if heads < 1 or heads > dim or dim % heads:
            raise UndenseError(
                f"{name}: heads={heads} must divide dim={dim}, at most one a feature"
            )
        if not 2 <= config.chunk <= LONGEST_CHUNK:
            raise UndenseError(f"{name}: chunk={config.chunk} must be 2 to {LONGEST_CHUNK} tokens")
        if config.conv_width < 1:
            raise UndenseError(f"{name}: conv_width={config.conv_width} must be at least 1")
        self.heads, self.chunk, self.width = heads, config.chunk, dim // heads
        parts = self.parts(dim, heads, config)
        self.kernel, self.memory, self.bank = parts.kernel, parts.memory, parts.bank
        self.gates, self.selector = parts.gates, parts.selector
        features = heads * self.memory.features if self.memory else 0
        self.mixed = [dim, features, features]  # what the short convolution sees: v, q, k
        per_head = heads if self.memory else 0
        self.plain = [dim, per_head, per_head]  # z, decay, write
        self.project_in = nn.Linear(dim, sum(self.mixed) + sum(self.plain), bias=False)
        self.conv = nn.Parameter(torch.randn(config.conv_width, sum(self.mixed)) * 0.1)
        self.conv.data[0] += 1
        self.project_out = nn.Linear(dim, dim, bias=False)

    @classmethod
    @abstractmethod
    def parts(cls, dim: int, heads: int, config: Config) -> SpectralParts:
        """Fresh parts for a mixer of this width and number of heads."""

    def layout(self) -> tuple[Slot, ...]:
        slots = [POSITIONS, Slot("recent inputs", (len(self.conv) - 1, self.dim))]
        if self.kernel is not None:
            slots.append(Slot("recent values", (self.kernel.taps - 1, self.dim)))
        if self.memory is not None:
            slots.append(Slot("memory", (self.heads, self.memory.features, self.width)))
        if self.bank is not None:
            modes = (self.heads, self.bank.modes, 2, self.width)
            slots.append(Slot("modes", modes, torch.float64))
        if self.selector is not None:
            assert self.bank is not None
            slots += [
                Slot("means", (HISTORY, self.dim)),
                Slot("running", (1, self.dim)),
                Slot("awake", (self.heads, self.bank.modes)),
            ]
        return tuple(slots)

    def forward(
        self, x: Tensor, state: State | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        self.check(x, state, mask)
        if state is not None and x.shape[1] == 1:
            y, state = self._step(x, state, mask)
        elif x.shape[1] > SEGMENT and not torch.is_grad_enabled():
            aligned = state is None and mask is None
            y = torch.empty_like(x)
            for start in range(0, x.shape[1], SEGMENT):
                here = slice(start, start + SEGMENT)
                part = None if mask is None else mask[:, here]
                y[:, here], state = self._stretch(x[:, here], state, part, aligned)
        else:
            y, state = self._stretch(x, state, mask, state is None)
        assert state is not None
        require_finite(self.component, y)
        return y, state

    def _stretch(
        self, x: Tensor, state: State | None, mask: Tensor | None, aligned: bool
    ) -> tuple[Tensor, State]:
        """Any number of tokens in chunks. `aligned`: every row begins at a chunk's first token."""
        batch, time, _ = x.shape
        past = self._named(x, state)
        packing = Packing.of(time, mask)
        grid = Grid.of(packing, self.chunk, None if aligned else past["positions"])
        x = packing.pack(x)
        v, streams, z = self._project(torch.cat([past["recent inputs"], x], 1))
        real = packing.real(x.device)
        if real is not None:
            v = v.masked_fill(~real[..., None], 0)
        values = grid.heads(v, self.heads)
        following = {
            "positions": past["positions"] + (time if mask is None else mask.sum(1)),
            "recent inputs": packing.after(past["recent inputs"], x),
        }
        kinds: list[Features] = []
        if self.memory is not None:
            kind, following["memory"] = self.memory.chunks(streams, grid, values, past["memory"])
            kinds.append(kind)
        if self.bank is not None:
            awake = None
            if self.selector is not None:
                awake, chosen = self.selector.over_chunks(_chosen(past), values, grid)
                following |= vars(chosen)
            gates = None
            if self.gates is not None:
                gates = grid.cut(self.gates(x)).permute(0, 1, 3, 4, 5, 2)
            kind, following["modes"] = resonate(
                self.bank, grid, values, past["modes"], gates, awake
            )
            kinds.append(kind)
        y = None
        if kinds:
            y = grid.join(read(values, kinds).transpose(2, 3)).flatten(2)
        if self.kernel is not None:
            filtered = overlap_save(past["recent values"].to(v.dtype), v, self.kernel())
            y = filtered if y is None else y + filtered
            following["recent values"] = packing.after(past["recent values"], v)
        assert y is not None
        y = packing.unpack(self._project_out(y, z, x.dtype))
        return y, tuple(following[slot.name] for slot in self.layout())

    def _step(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        """One token by the recurrences themselves."""
        past = self._named(x, state)
        recent = torch.cat([past["recent inputs"], x], 1)
        v, streams, z = self._project(recent)
        value = v[:, 0].unflatten(-1, (self.heads, -1))
        following = {"positions": past["positions"] + 1, "recent inputs": recent[:, 1:]}
        y: Tensor | None = None
        if self.memory is not None:
            y, following["memory"] = self.memory.step(streams, value, past["memory"])
        if self.bank is not None:
            awake = gates = None
            if self.selector is not None:
                awake, chosen = self.selector.step(_chosen(past), past["positions"], v, self.chunk)
                following |= vars(chosen)
            if self.gates is not None:
                gates = self.gates(x)[:, 0, :, self.bank.band()]
            tones, following["modes"] = self.bank.step(past["modes"], value, gates, awake)
            y = tones.to(v.dtype) if y is None else y + tones.to(v.dtype)
        flat = None if y is None else y.flatten(1)[:, None]
        if self.kernel is not None:
            joined = torch.cat([past["recent values"], v], 1)
            filtered = (joined * self.kernel().flip(0)).sum(1, keepdim=True)
            flat = filtered if flat is None else flat + filtered
            following["recent values"] = joined[:, 1:]
        assert flat is not None
        y = self._project_out(flat, z, x.dtype)
        if mask is not None:
            y = y * mask[..., None]
            for name, tensor in following.items():
                real = mask[:, 0].view(-1, *(1,) * (tensor.dim() - 1))
                following[name] = torch.where(real, tensor, past[name])
        return y, tuple(following[slot.name] for slot in self.layout())

    def _named(self, x: Tensor, state: State | None) -> dict[str, Tensor]:
        if state is None:
            state = self.initial_state(len(x), dtype=_arithmetic(x.dtype), device=x.device)
        return {slot.name: tensor for slot, tensor in zip(self.layout(), state, strict=True)}

    def _project(self, x: Tensor) -> tuple[Tensor, Streams, Tensor]:
        """(batch, conv_width - 1 + time, dim) -> v, (q, k, decay, write) and z of the last `time`
        tokens. Half precision ends here: transforms and long sums cannot be done in it."""
        earlier = len(self.conv) - 1
        projected = self.project_in(x.to(self.project_in.weight.dtype))
        projected = projected.to(_arithmetic(x.dtype))
        mixed, plain = projected.split([sum(self.mixed), sum(self.plain)], -1)
        mixed = direct(mixed, self.conv.to(mixed.dtype))
        v, q, k = mixed.split(self.mixed, -1)
        z, decay, write = plain[:, earlier:].split(self.plain, -1)
        return v, (q, k, decay, write), z

    def _project_out(self, y: Tensor, z: Tensor, dtype: torch.dtype) -> Tensor:
        """Every head's output at unit power, times silu(z), through W_out."""
        heads = y.unflatten(-1, (self.heads, -1))
        power = torch.linalg.vector_norm(heads, dim=-1, keepdim=True) * self.width**-0.5
        y = (heads / (power + POWER_FLOOR)).flatten(-2) * nn.functional.silu(z)
        return self.project_out(y.to(dtype))

    def cost(self, batch: int, length: int, *, past: int = 0) -> Cost:
        """Forward only, as it runs without gradients and outside training. Its backward is 0 here:
        `undense.count_flops` counts it."""
        if past > 0 and length == 1:
            return Cost.total(self.component, *self._step_costs(batch, past))
        stretches = range(0, length, SEGMENT)
        parts = [
            Cost.total(
                f"from token {start}",
                *self._stretch_costs(batch, min(SEGMENT, length - start), later=past > 0),
            )
            for start in stretches
        ]
        return Cost.total(self.component, *parts)

    def _stretch_costs(self, batch: int, time: int, *, later: bool) -> list[Cost]:
        """`later`: rows may begin inside a chunk, which is what a call with a state must assume."""
        chunks = -(-(time + (self.chunk - 1 if later else 0)) // self.chunk)
        features: list[int] = []
        parts = self._around_costs(batch, time)
        rows = batch * chunks * self.heads
        if self.memory is not None:
            features.append(self.memory.features)
            parts.append(
                self.memory.chunks_cost("memory", batch, time, chunks, self.chunk, self.width)
            )
        most = None
        if self.selector is not None:
            most = self.selector.most
            parts.append(
                self.selector.over_chunks_cost("selector", batch, chunks, self.chunk, self.dim)
            )
        if self.gates is not None:
            parts.append(self.gates.cost("gates", batch * time, self.dim))
        if self.bank is not None:
            features.append(2 * (most or self.bank.modes))
            wound = later + (later or time % self.chunk > 0)
            parts.append(
                resonate_cost(
                    self.bank,
                    batch,
                    chunks,
                    self.chunk,
                    self.width,
                    most=most,
                    gated=self.gates is not None,
                    wound_back=wound,
                )
            )
        if features:
            parts.append(read_cost("read", rows, self.chunk, self.width, features))
        if self.kernel is not None:
            taps = self.kernel.taps
            parts.append(self.kernel.cost("kernel"))
            parts.append(overlap_save_cost("filter", batch, time, taps, self.dim))
            if features:
                parts.append(cost.add("sum", batch * time * self.dim))
        return parts

    def _step_costs(self, batch: int, past: int) -> list[Cost]:
        numbers = batch * self.dim
        parts = self._around_costs(batch, 1)
        if self.memory is not None:
            parts.append(self.memory.step_cost("memory", batch, self.width))
        if self.selector is not None:
            begins = past % self.chunk == 0
            parts.append(self.selector.step_cost("selector", batch, self.dim, begins=begins))
        if self.gates is not None:
            parts.append(self.gates.cost("gates", batch, self.dim))
        if self.bank is not None:
            parts.append(
                self.bank.step_cost(
                    "modes",
                    batch,
                    self.width,
                    gated=self.gates is not None,
                    chosen=self.selector is not None,
                )
            )
        both = self.memory is not None and self.bank is not None
        if self.kernel is not None:
            taps = self.kernel.taps
            parts.append(self.kernel.cost("kernel"))
            parts.append(cost.elementwise("filter", numbers * taps, forward=2, macs=1))
            both = both + (self.memory is not None or self.bank is not None)
        parts.append(cost.add("sums", numbers * both))
        return parts

    def _around_costs(self, batch: int, time: int) -> list[Cost]:
        """The projections, the short convolution, and the gate of the output."""
        tokens, earlier = batch * time, len(self.conv) - 1
        inner = sum(self.mixed) + sum(self.plain)
        numbers = tokens * self.dim
        return [
            cost.linear("in", tokens + batch * earlier, self.dim, inner, bias=False),
            direct_cost("short convolution", tokens, len(self.conv), sum(self.mixed)),
            cost.elementwise("power", numbers, forward=2, macs=1),
            cost.elementwise("power floor", tokens * self.heads, forward=2),
            cost.elementwise("unit power", numbers),
            cost.activation("silu", numbers, "silu"),
            cost.product("gate", numbers),
            cost.linear("out", tokens, self.dim, self.dim, bias=False),
        ]


def _chosen(past: dict[str, Tensor]) -> Past:
    return Past(past["means"], past["running"], past["awake"])


def _arithmetic(dtype: torch.dtype) -> torch.dtype:
    """The dtype that recurrences run in: transforms and long sums cannot be done in half."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
