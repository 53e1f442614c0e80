"""The stream that every spectral mixer runs: filters, modes and a memory over shared projections.

A spectral mixer says which parts it is made of; this file runs them, over a whole chunk or one
token, with the same state. Floors: mixers are built on it, it knows none of them.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from undense.cost import Cost
from undense.errors import UndenseError
from undense.mixing import POSITIONS, MixerConfig, SequenceMixer, Slot, State, require_finite
from undense.ops import causal_fir, chunk_scan
from undense.ops.band_gates import BandGates
from undense.ops.causal_fir import BandedKernel
from undense.ops.content_memory import ContentMemory
from undense.ops.modal_bank import LONGEST_CHUNK, ModalBank, ModeTables, conjugate, times
from undense.ops.mode_selector import HISTORY, ModeSelector
from undense.ops.padding import Grid, Packing
from undense.ops.windows import BANDS
from undense.registry import Config

# Tokens of one pass without gradients: what lies between two layers then stays in the cache.
SEGMENT = 4096


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
            raise UndenseError(f"{name}: heads={heads} must divide dim={dim}, at most one a feature")
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
        self.plain = [dim, *([heads, heads] if self.memory else [])]  # z, decay, write
        self.project_in = nn.Linear(dim, sum(self.mixed) + sum(self.plain), bias=False)
        self.conv = nn.Parameter(torch.randn(config.conv_width, sum(self.mixed)) * 0.1)
        self.conv.data[0] += 1
        self.norm = nn.Parameter(torch.ones(dim))
        self.project_out = nn.Linear(dim, dim, bias=False)

    @classmethod
    @abstractmethod
    def parts(cls, dim: int, heads: int, config: Config) -> SpectralParts:
        """Fresh parts for a mixer of this width and number of heads."""

    def layout(self) -> tuple[Slot, ...]:
        slots = [POSITIONS, Slot("recent projections", (len(self.conv) - 1, sum(self.mixed)))]
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
                Slot("past chunks", (HISTORY, self.dim)),
                Slot("this chunk", (1, self.dim)),
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
        if state is None:
            state = self.initial_state(batch, dtype=_arithmetic(x.dtype), device=x.device)
        past = self._named(state)
        positions = past["positions"]
        packing = Packing.of(time, mask)
        grid = Grid.of(packing, self.chunk, None if aligned else positions)
        x = packing.pack(x)
        mixed, plain = self._project(x)
        following = {"positions": positions + (time if mask is None else mask.sum(1))}
        recent = past["recent projections"]
        v, q, k = self._convolve(torch.cat([recent, mixed], 1)).split(self.mixed, -1)
        following["recent projections"] = packing.after(recent, mixed)
        real = packing.real(x.device)
        if real is not None:
            v = v.masked_fill(~real[..., None], 0)
        values = self._heads(grid, v)
        features: list[tuple[Tensor, Tensor, Tensor]] = []
        ends = grid.ends(batch, x.device)
        if self.memory is not None:
            kind, following["memory"] = self._recall(
                self.memory, past["memory"], grid, values, (q, k, *plain[1:]), real
            )
            features.append(kind)
        if self.bank is not None:
            tables = self.bank.tables(self.chunk, values.dtype)
            slots = weights = None
            if self.selector is not None:
                slots, weights = self._select(self.selector, past, values, ends, grid, following)
            kind, following["modes"] = self._resonate(
                self.bank, tables, past["modes"], grid, values, self._gates(x, grid), slots, weights
            )
            features.append(kind)
        y = None
        if features:
            y = chunk_scan.read(values, features)
            y = grid.join(y.transpose(2, 3).flatten(4).flatten(3))
        if self.kernel is not None:
            joined = torch.cat([past["recent values"], v], 1)
            filtered = causal_fir.overlap_save(joined, self.kernel())
            y = filtered if y is None else y + filtered
            following["recent values"] = packing.after(past["recent values"], v)
        assert y is not None
        y = packing.unpack(self._project_out(y, plain[0], x.dtype))
        return y, tuple(following[slot.name] for slot in self.layout())

    def _named(self, state: State) -> dict[str, Tensor]:
        return {slot.name: tensor for slot, tensor in zip(self.layout(), state, strict=True)}

    def _project(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Projections for the short convolution, and the others; half precision ends here."""
        projected = self.project_in(x)
        projected = projected.to(_arithmetic(x.dtype))
        mixed, plain = projected.split([sum(self.mixed), sum(self.plain)], -1)
        return mixed, plain.split(self.plain, -1)

    def _convolve(self, joined: Tensor) -> Tensor:
        return causal_fir.direct(joined, self.conv.to(joined.dtype))

    def _heads(self, grid: Grid, x: Tensor) -> Tensor:
        """(batch, time, heads * width) -> (batch, chunks, heads, chunk, width)."""
        cut = grid.cut(x).unflatten(-1, (self.heads, -1))
        return cut.transpose(2, 3).contiguous()

    def _project_out(self, y: Tensor, z: Tensor, dtype: torch.dtype) -> Tensor:
        y = nn.functional.rms_norm(y.unflatten(-1, (self.heads, -1)), (self.width,), eps=1e-5)
        y = y.flatten(-2) * self.norm.to(y.dtype) * nn.functional.silu(z)
        return self.project_out(y.to(dtype))

    def _recall(
        self,
        memory: ContentMemory,
        before: Tensor,
        grid: Grid,
        values: Tensor,
        streams: tuple[Tensor, ...],
        real: Tensor | None,
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """Content features of the grid, and the memory after the last real token."""
        q, k, decay = memory(*streams)
        if real is not None:
            k = k.masked_fill(~real[..., None, None], 0)
            decay = decay.masked_fill(~real[..., None], 0)
        queries, keys = (self._heads(grid, part.flatten(2)) for part in (q, k))
        decays = grid.cut(decay).transpose(2, 3)
        queries, keys, total = chunk_scan.content_features(queries, keys, decays)
        keys = keys.transpose(-1, -2)
        states = chunk_scan.carry_content(before.to(keys.dtype), keys @ values, total)
        return (queries, keys, states[:, :-1]), states[:, -1]

    def _resonate(
        self,
        bank: ModalBank,
        tables: ModeTables,
        before: Tensor,
        grid: Grid,
        values: Tensor,
        gates: Tensor | None,
        slots: Tensor | None,
        weights: Tensor | None,
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """Features of the modes that are awake, and all modes after the last real token."""
        batch, chunks, heads = values.shape[:3]
        band = bank.band()
        keys, queries, writes = tables.keys, tables.queries, tables.writes
        if slots is not None:
            head = torch.arange(heads, device=values.device)[:, None]
            keys, queries, writes = (t[head, slots] for t in (keys, queries, writes))
            band = band[slots]
        if gates is not None:
            spread = band[..., None, None].expand(batch, chunks, heads, -1, 2, self.chunk)
            queries = times(torch.take_along_dim(gates, spread, 3), queries)
        if weights is not None:
            queries = queries * weights[..., None, None]
        keys, queries, writes = (
            t.flatten(-3, -2).expand(batch, chunks, heads, -1, -1) for t in (keys, queries, writes)
        )
        written = (writes @ values).unflatten(3, (-1, 2)).double()
        if slots is not None and weights is not None:
            places = slots[..., None, None].expand_as(written)
            empty = written.new_zeros(batch, chunks, heads, bank.modes, 2, self.width)
            written = empty.scatter(3, places, written * weights[..., None, None])
        if grid.offset is not None:
            before = bank.wound_back(before, grid.offset)
        states = chunk_scan.carry_modes(before, written, tables.turn)
        reached = states[:, :-1]
        if slots is not None:
            places = slots[..., None, None].expand(-1, -1, -1, -1, 2, self.width)
            reached = torch.take_along_dim(reached, places, 3)
        reached = reached.flatten(3, 4).to(values.dtype)
        ends = grid.ends(batch, values.device)
        last = (ends + self.chunk - 1) // self.chunk
        index = last.view(batch, 1, 1, 1, 1, 1)
        after = torch.take_along_dim(states, index, 1)[:, 0]
        after = bank.wound_back(after, last * self.chunk - ends)
        return (queries.transpose(-1, -2), keys, reached), after

    def _gates(self, x: Tensor, grid: Grid) -> Tensor | None:
        """Conjugated gates on the grid: (batch, chunks, heads, bands, 2, chunk)."""
        if self.gates is None:
            return None
        gates = grid.cut(self.gates(x).flatten(2)).unflatten(-1, (self.heads, BANDS, 2))
        return gates.permute(0, 1, 3, 4, 5, 2)

    def _select(
        self,
        selector: ModeSelector,
        past: dict[str, Tensor],
        values: Tensor,
        ends: Tensor,
        grid: Grid,
        following: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Modes of each chunk by the means of those before it; the selector's state goes on."""
        sums = values.sum(3).flatten(2)  # (batch, chunks, dim)
        first = sums[:, :1] + past["this chunk"]
        sums = torch.cat([first, sums[:, 1:]], 1)
        means = torch.cat([past["past chunks"], sums / self.chunk], 1)
        chunks = sums.shape[1]
        windows = means.unfold(1, HISTORY, 1)[:, :chunks].transpose(2, 3)
        slots, weights = selector(windows)
        done = (ends // self.chunk)[:, None, None]
        index = done + torch.arange(HISTORY, device=done.device)[:, None]
        following["past chunks"] = torch.take_along_dim(means, index, 1)
        running = torch.take_along_dim(sums, done.clamp(max=chunks - 1), 1)
        begun = (ends % self.chunk > 0)[:, None, None]
        following["this chunk"] = running * begun
        now = done.clamp(max=chunks - 1)[..., None]
        awake = weights.new_zeros(*weights.shape[:3], selector.modes)
        awake = awake.scatter(3, slots, weights.detach())
        following["awake"] = torch.take_along_dim(awake, now, 1)[:, 0]
        return slots, weights

    def _step(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        """One token by the recurrences themselves."""
        past = self._named(state)
        mixed, plain = self._project(x)
        following = {"positions": past["positions"] + 1}
        joined = torch.cat([past["recent projections"], mixed], 1)
        following["recent projections"] = joined[:, 1:]
        v, q, k = self._convolve(joined).split(self.mixed, -1)
        value = v[:, 0].unflatten(-1, (self.heads, -1))
        y: Tensor | None = None
        if self.memory is not None:
            query, key, decay = self.memory(q, k, *plain[1:])
            written = key[:, 0, :, :, None] * value[:, :, None]
            held = past["memory"].to(v.dtype)
            held = torch.addcmul(written, held, decay[:, 0, :, None, None].exp())
            following["memory"] = held
            y = (query[:, 0, :, None] @ held)[:, :, 0]
        if self.bank is not None:
            awake = None
            if self.selector is not None:
                awake = self._awake(self.selector, past, v, following)
            tones, following["modes"] = self.bank.step(
                past["modes"], value, self._gates_now(x, v), awake
            )
            y = tones.to(v.dtype) if y is None else y + tones.to(v.dtype)
        flat = None if y is None else y.flatten(1)[:, None]
        if self.kernel is not None:
            joined = torch.cat([past["recent values"], v], 1)
            following["recent values"] = joined[:, 1:]
            filtered = (joined * self.kernel().flip(0)).sum(1, keepdim=True)
            flat = filtered if flat is None else flat + filtered
        assert flat is not None
        y = self._project_out(flat, plain[0], x.dtype)
        if mask is not None:
            y = y * mask[..., None]
            for name, tensor in following.items():
                real = mask[:, 0].view(-1, *(1,) * (tensor.dim() - 1))
                following[name] = torch.where(real, tensor, past[name])
        return y, tuple(following[slot.name] for slot in self.layout())

    def _gates_now(self, x: Tensor, v: Tensor) -> Tensor | None:
        """Conjugated gates of one token for every mode: (batch, heads, modes, 2)."""
        if self.gates is None:
            return None
        assert self.bank is not None
        return self.gates(x)[:, 0, :, self.bank.band()]

    def _awake(
        self,
        selector: ModeSelector,
        past: dict[str, Tensor],
        v: Tensor,
        following: dict[str, Tensor],
    ) -> Tensor:
        """Modes awake for this token, chosen anew in the rows where it begins a chunk."""
        place = past["positions"] % self.chunk
        begins, ends = place == 0, place == self.chunk - 1
        awake = past["awake"].to(v.dtype)
        if torch.compiler.is_compiling() or bool(begins.any()):
            slots, weights = selector(past["past chunks"].to(v.dtype)[:, None])
            chosen = torch.zeros_like(awake).scatter(2, slots[:, 0], weights[:, 0])
            awake = torch.where(begins[:, None, None], chosen, awake)
        following["awake"] = awake.detach()
        total = past["this chunk"] + v
        shifted = torch.cat([past["past chunks"][:, 1:], total / self.chunk], 1)
        full = ends[:, None, None]
        following["past chunks"] = torch.where(full, shifted, past["past chunks"])
        following["this chunk"] = total.masked_fill(full, 0)
        return awake


    def cost(self, batch, length, *, past=0): return Cost(name=self.component)


def _arithmetic(dtype: torch.dtype) -> torch.dtype:
    """The dtype that recurrences run in: transforms and long sums cannot be done in half."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
