"""The stream that every spectral mixer runs: filters, modes and a memory over shared projections.
A mixer says which parts it is made of; here they run, over a chunk or a token, with one state."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from undense.cost import Cost
from undense.errors import UndenseError
from undense.mixing import SequenceMixer, Slot, State, require_finite
from undense.ops import spectral_calls as calls
from undense.ops.causal_fir import BandedKernel
from undense.ops.content_memory import Streams
from undense.ops.full_precision import autocasts
from undense.ops.modal_bank import LONGEST_CHUNK
from undense.ops.output_gate import unit_gate
from undense.ops.overlap_add import OverlapAddFilter
from undense.ops.projections import inward, outward
from undense.ops.recurrences import Drive, Prepared, chosen_in, prepare, recur
from undense.ops.slots import Slots, at_a_chunk
from undense.ops.spectral_calls import served
from undense.ops.spectral_cost import Sizes, SpectralCost
from undense.ops.spectral_parts import SpectralMixerConfig, SpectralParts, arithmetic
from undense.ops.spectral_state import CHUNK, state_slots
from undense.ops.spectral_token import known, remember
from undense.registry import Config

# Tokens of one pass: what a pass works on stays near the core, and its largest tensors stay small
# enough for the allocator to hand out memory that it has had before.
SEGMENT = 2048


class SpectralMixer(SequenceMixer):
    """y = W_out (silu(z) * norm(filter(v) + modes(v) + memory(q, k, v))), with v, q, k the short
    causal convolution of projections of x, and z another projection. State: the inputs that filters
    still reach, the memory, the modes (fp64), and of a selector the means of past chunks."""

    config: SpectralMixerConfig

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
        parts = self.parts(dim, heads, config, causal=config.causal)
        self.kernel, self.memory, self.bank = parts.kernel, parts.memory, parts.bank
        self.gates, self.selector = parts.gates, parts.selector
        features = heads * self.memory.features if self.memory else 0
        self.mixed = [dim, features, features]  # what the short convolution sees: v, q, k
        per_head = heads if self.memory else 0
        gates = self.gates.fan if self.gates else 0
        self.plain = [dim, per_head, per_head, gates]  # z, decay, write, logits of the band gates
        self.project_in = nn.Linear(dim, sum(self.mixed) + sum(self.plain), bias=False)
        self.conv = nn.Parameter(torch.randn(sum(self.mixed), config.conv_width) * 0.1)
        self.conv.data[:, 0] += 1
        # A value is looked up by what came before it: from the start a key sees that token too.
        self.conv.data[dim + features :, 1:2] += 1
        self.project_out = nn.Linear(dim, dim, bias=False)
        # once: a decoded token asks for them three times
        self.slots = state_slots(parts, dim, heads, chunk=config.chunk, conv=config.conv_width)

    @classmethod
    @abstractmethod
    def parts(cls, dim: int, heads: int, config: Config, *, causal: bool) -> SpectralParts:
        """Fresh parts for a mixer of this width and number of heads."""

    def _own(self) -> SpectralParts:
        return SpectralParts(self.kernel, self.memory, self.bank, self.gates, self.selector)

    def layout(self) -> tuple[Slot, ...]:
        return self.slots if self.config.causal else ()

    def forward(
        self, x: Tensor, state: State | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        self.check(x, state, mask)
        if autocasts(x):  # as half precision, see `_project`
            with torch.autocast(x.device.type, enabled=False):
                y, state = self._mix(x.to(self.conv.dtype), state, mask)
            y = y.to(x.dtype)
        else:
            y, state = self._mix(x, state, mask)
        require_finite(self.component, y)
        return y, state

    def _mix(self, x: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        if not self.config.causal:
            return self._both_ways(x, mask), ()
        batch, time, _ = x.shape
        if state is not None and time == 1:
            return self._step(x, state, mask)
        parts = self._own()
        weights = served(self, parts, x, state, self.slots)
        aligned = state is None or (mask is None and at_a_chunk(state[0], self.chunk))
        if weights is not None:
            past, sizes = self._named(x, state), (self.heads, self.chunk, SEGMENT)
            y, following = calls.stretch(parts, weights, x, mask, past, *sizes, aligned=aligned)
            state = self._after(following, past)
        else:
            prepared = prepare(parts, batch, self.chunk, arithmetic(x.dtype))
            pieces = []
            masks = [None] * time if mask is None else mask.split(SEGMENT, 1)
            for piece, hidden in zip(x.split(SEGMENT, 1), masks, strict=False):
                first = state is None or (aligned and mask is None)
                y, state = self._stretch(piece, state, hidden, first, prepared, time)
                pieces.append(y)
            y = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)
        assert state is not None
        return y, state

    def _stretch(
        self,
        x: Tensor,
        state: State | None,
        mask: Tensor | None,
        aligned: bool,
        prepared: Prepared,
        whole: int,
    ) -> tuple[Tensor, State]:
        """A segment of a call on `whole` tokens, in chunks. `aligned`: every row begins at a
        chunk's first token."""
        time = x.shape[1]
        past = self._named(x, state)
        slots = Slots.of(time, self.chunk, mask, None if aligned else past["positions"])
        placed = slots.place(past["recent inputs"].to(x.dtype), x)
        drive = self._project(placed, slots)
        following = {
            "positions": past["positions"] + (time if mask is None else mask.sum(1)),
            "recent inputs": slots.tail(placed, 1).to(past["recent inputs"].dtype),
        }
        parts = recur(
            self._own(), self.heads, drive, past, slots, following, prepared, time / whole
        )
        if prepared.filter is not None:
            early = prepared.filter.early
            before = past["recent values"].to(drive.v.dtype)
            padded = nn.functional.pad(before, (early - before.shape[-1], 0))
            joined = slots.precede(padded, drive.v)
            parts = [slots.heads(prepared.filter(joined), self.heads), *parts]
            following["recent values"] = slots.tail(joined, 2)[..., early - before.shape[-1] :]
        y = slots.pick(self._project_out(drive.z, *parts, dtype=x.dtype))
        return y, self._after(following, past)

    def _both_ways(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Not causal: the recurrences run over the tokens and over the reversed tokens, and the
        filter works on overlapping frames."""
        slots = Slots.of(x.shape[1], self.chunk, mask, None)
        silence = x.new_zeros(len(x), self.conv.shape[1] - 1, self.dim)
        drive = self._project(slots.place(silence, x), slots)
        start = self._start(x)
        prepared = prepare(self._own(), len(x), self.chunk, drive.v.dtype)
        parts = recur(self._own(), self.heads, drive, start, slots, {}, prepared, 1.0)
        if parts:
            back = Drive(
                v=slots.reversed(drive.v),
                memory=Streams(*(slots.reversed(part) for part in drive.memory)),
                z=drive.z,
                logits=slots.reversed(drive.logits),
            )
            (reverse,) = recur(self._own(), self.heads, back, start, slots, {}, prepared, 1.0)
            turned = slots.reversed(reverse.flatten(3, 4).flatten(1, 2))
            parts = [slots.heads(turned, self.heads), *parts]
        if self.kernel is not None:
            assert isinstance(self.kernel, OverlapAddFilter)
            parts = [slots.heads(self.kernel(drive.v), self.heads), *parts]
        return slots.pick(self._project_out(drive.z, *parts, dtype=x.dtype))

    def _step(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        """One token; padding leaves the state as it was."""
        past = self._named(x, state)
        found = known(self, x, state, self.slots)
        if found is None:
            parts = self._own()
            found = served(self, parts, x, state, self.slots)
            remember(self, parts, found, x, self.heads, self.chunk)
        if found is None:
            y, following = self._recur_once(x, past)
        else:
            y, following = calls.step(found, self.selector, x, past, self.heads, self.chunk)
        if mask is not None:
            y = y.masked_fill(~mask[..., None], 0)
            for name, tensor in following.items():
                real = mask[:, 0].view(-1, *(1,) * (tensor.dim() - 1))
                following[name] = torch.where(real, tensor, past[name])
        return y, self._after(following, past)

    def _recur_once(self, x: Tensor, past: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One token by the recurrences themselves."""
        recent = torch.cat([past["recent inputs"], x], 1)
        drive = self._project(recent, Slots.of(1, 1, None, None))
        v = drive.v
        value = v.unflatten(1, (self.heads, -1))[..., 0]
        following = {"positions": past["positions"] + 1, "recent inputs": recent[:, 1:]}
        parts: list[Tensor] = []
        if self.memory is not None:
            read_out, following["memory"] = self.memory.step(drive.memory, value, past["memory"])
            parts.append(read_out)
        if self.bank is not None:
            awake = gates = None
            if self.selector is not None:
                awake, chosen = self.selector.step(
                    chosen_in(past), past["positions"], v.mT, self.chunk
                )
                following |= vars(chosen)
            if self.gates is not None:
                band = self.bank.band()
                gates = torch.cat(self.gates(drive.logits), -1)[:, :, band]
            tones, following["modes"] = self.bank.step(past["modes"], value, gates, awake)
            parts.append(tones.to(v.dtype))
        if isinstance(self.kernel, BandedKernel):
            joined = torch.cat([past["recent values"].to(v.dtype), v], -1)
            filtered = (joined * self.kernel().to(v.dtype).flip(1)).sum(-1)
            parts.append(filtered.unflatten(1, (self.heads, -1)))
            following["recent values"] = joined[..., 1:]
        parts = [part[..., None, None] for part in parts]
        return self._project_out(drive.z, *parts, dtype=x.dtype), following

    def _after(self, following: dict[str, Tensor], past: dict[str, Tensor]) -> State:
        """The state in the order of the layout."""
        if self.selector is not None:
            following[CHUNK] = past[CHUNK]
        return tuple(following[slot.name] for slot in self.slots)

    def _named(self, x: Tensor, state: State | None) -> dict[str, Tensor]:
        if state is None:
            return self._start(x)
        return {slot.name: tensor for slot, tensor in zip(self.layout(), state, strict=True)}

    def _start(self, x: Tensor) -> dict[str, Tensor]:
        """The state before the first token, by name."""
        dtype = arithmetic(x.dtype)
        return {
            slot.name: x.new_zeros(len(x), *slot.shape, dtype=slot.dtype or dtype)
            for slot in self.slots
        }

    def _project(self, placed: Tensor, slots: Slots) -> Drive:
        """(batch, conv_width - 1 + slots, dim) to what drives the parts, for the slots. Half
        precision ends here: transforms and long sums cannot be done in it."""
        taps = self.conv.to(arithmetic(placed.dtype))
        exact = self.gates is not None and not self.training  # see band_gates.py
        v, q, k, z, decay, write, logits = inward(
            self.project_in, placed, taps, self.mixed, self.plain, exact
        )
        real = slots.real(len(v), v.device)
        if real is not None:
            v = v.masked_fill(~real, 0)
        return Drive(v, Streams(q, k, decay, write), z, logits)

    def _project_out(self, z: Tensor, *parts: Tensor, dtype: torch.dtype) -> Tensor:
        """Every head's output at unit power, times silu(z), through W_out: to (batch, time, dim).
        `parts`: see `unit_gate`."""
        return outward(self.project_out, unit_gate(z, *parts), dtype)

    def cost(self, batch: int, length: int, *, past: int = 0) -> Cost:
        """As it runs outside training, without what only training adds (the auxiliary loss, the
        gradient of the choice). Backward is that of one segment each: where a call has several,
        what their states carry back from one to the other, less than a hundredth, is left out."""
        sizes = Sizes(
            dim=self.dim,
            heads=self.heads,
            chunk=self.chunk,
            conv=self.conv.shape[1],
            mixed=sum(self.mixed),
            plain=sum(self.plain),
        )
        costs = SpectralCost(self._own(), sizes)
        if not self.config.causal:
            return Cost.total(self.component, *costs.both_ways(batch, length))
        if past > 0 and length == 1:
            return Cost.total(self.component, *costs.step(batch, past))
        stretches = [
            Cost.total(
                f"from token {start}",
                *costs.stretch(batch, min(SEGMENT, length - start), later=past % self.chunk > 0),
            )
            for start in range(0, length, SEGMENT)
        ]
        return Cost.total(self.component, *stretches)
