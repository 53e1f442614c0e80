"""The stream that every spectral mixer runs: filters, modes and a memory over shared projections.
A mixer says which parts it is made of; here they run, over a chunk or a token, with one state."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from undense.cost import Cost
from undense.errors import UndenseError
from undense.mixing import POSITIONS, SequenceMixer, Slot, State, require_finite
from undense.ops.causal_fir import (
    BandedKernel,
    direct,
    overlap_save,
)
from undense.ops.chunk_scan import Features, read
from undense.ops.modal_bank import LONGEST_CHUNK
from undense.ops.modal_chunks import resonate
from undense.ops.mode_selector import HISTORY, Past
from undense.ops.overlap_add import OverlapAddFilter
from undense.ops.padding import Grid, Packing
from undense.ops.spectral_parts import (
    Sizes,
    SpectralCost,
    SpectralMixerConfig,
    SpectralParts,
    arithmetic,
)
from undense.registry import Config

Streams = tuple[Tensor, Tensor, Tensor, Tensor]
POWER_FLOOR = 1e-3  # under the outputs' root mean square, so that silence stays silent
# Tokens of one pass without gradients: what lies between two layers then stays in the cache.
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
        self.plain = [dim, per_head, per_head]  # z, decay, write
        self.project_in = nn.Linear(dim, sum(self.mixed) + sum(self.plain), bias=False)
        self.conv = nn.Parameter(torch.randn(config.conv_width, sum(self.mixed)) * 0.1)
        self.conv.data[0] += 1
        # A value is looked up by what came before it: from the start a key sees that token too.
        self.conv.data[1:2, dim + features :] += 1
        self.project_out = nn.Linear(dim, dim, bias=False)

    @classmethod
    @abstractmethod
    def parts(cls, dim: int, heads: int, config: Config, *, causal: bool) -> SpectralParts:
        """Fresh parts for a mixer of this width and number of heads."""

    def layout(self) -> tuple[Slot, ...]:
        return self._slots() if self.config.causal else ()

    def _slots(self) -> tuple[Slot, ...]:
        slots = [POSITIONS, Slot("recent inputs", (len(self.conv) - 1, self.dim))]
        if isinstance(self.kernel, BandedKernel):
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
        if not self.config.causal:
            return self._both_ways(x, mask), ()
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
        time = x.shape[1]
        past = self._named(x, state)
        packing = Packing.of(time, mask)
        grid = Grid.of(packing, self.chunk, None if aligned else past["positions"])
        x = packing.pack(x)
        v, streams, z = self._project(torch.cat([past["recent inputs"], x], 1))
        v = packing.only_real(v)
        following = {
            "positions": past["positions"] + (time if mask is None else mask.sum(1)),
            "recent inputs": packing.after(past["recent inputs"], x),
        }
        y = self._recur(x, v, streams, past, grid, following)
        if self.kernel is not None:
            assert isinstance(self.kernel, BandedKernel)
            filtered = overlap_save(past["recent values"].to(v.dtype), v, self.kernel())
            y = filtered if y is None else y + filtered
            following["recent values"] = packing.after(past["recent values"], v)
        assert y is not None
        y = packing.unpack(self._project_out(y, z, x.dtype))
        return y, tuple(following[slot.name] for slot in self.layout())

    def _both_ways(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Not causal: the recurrences run over the tokens and over the reversed tokens, and the
        filter works on overlapping frames."""
        packing = Packing.of(x.shape[1], mask)
        grid = Grid.of(packing, self.chunk, None)
        x = packing.pack(x)
        silence = x.new_zeros(len(x), len(self.conv) - 1, self.dim)
        v, streams, z = self._project(torch.cat([silence, x], 1))
        v = packing.only_real(v)
        start = self._start(x)
        y = self._recur(x, v, streams, start, grid, {})
        if y is not None:
            back = [packing.reversed(part) for part in (x, v, *streams)]
            streams = (back[2], back[3], back[4], back[5])
            reverse = self._recur(back[0], back[1], streams, start, grid, {})
            assert reverse is not None
            y = y + packing.reversed(reverse)
        if self.kernel is not None:
            assert isinstance(self.kernel, OverlapAddFilter)
            filtered = self.kernel(v)
            y = filtered if y is None else y + filtered
        assert y is not None
        return packing.unpack(self._project_out(y, z, x.dtype))

    def _recur(
        self,
        x: Tensor,
        v: Tensor,
        streams: Streams,
        past: dict[str, Tensor],
        grid: Grid,
        following: dict[str, Tensor],
    ) -> Tensor | None:
        """What memory and modes say about packed tokens; their state goes into `following`."""
        values = grid.heads(v, self.heads)
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
        if not kinds:
            return None
        return grid.join(read(values, kinds).transpose(2, 3)).flatten(2)

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
        if isinstance(self.kernel, BandedKernel):
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
            return self._start(x)
        return {slot.name: tensor for slot, tensor in zip(self.layout(), state, strict=True)}

    def _start(self, x: Tensor) -> dict[str, Tensor]:
        """The state before the first token, by name."""
        dtype = arithmetic(x.dtype)
        return {
            slot.name: x.new_zeros(len(x), *slot.shape, dtype=slot.dtype or dtype)
            for slot in self._slots()
        }

    def _project(self, x: Tensor) -> tuple[Tensor, Streams, Tensor]:
        """(batch, conv_width - 1 + time, dim) -> v, (q, k, decay, write) and z of the last `time`
        tokens. Half precision ends here: transforms and long sums cannot be done in it."""
        earlier = len(self.conv) - 1
        projected = self.project_in(x.to(self.project_in.weight.dtype))
        projected = projected.to(arithmetic(x.dtype))
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
        parts = SpectralParts(
            kernel=self.kernel,
            memory=self.memory,
            bank=self.bank,
            gates=self.gates,
            selector=self.selector,
        )
        sizes = Sizes(
            dim=self.dim,
            heads=self.heads,
            chunk=self.chunk,
            conv=len(self.conv),
            mixed=sum(self.mixed),
            plain=sum(self.plain),
        )
        costs = SpectralCost(parts, sizes)
        if not self.config.causal:
            return Cost.total(self.component, *costs.both_ways(batch, length))
        if past > 0 and length == 1:
            return Cost.total(self.component, *costs.step(batch, past))
        stretches = [
            Cost.total(
                f"from token {start}",
                *costs.stretch(batch, min(SEGMENT, length - start), later=past > 0),
            )
            for start in range(0, length, SEGMENT)
        ]
        return Cost.total(self.component, *stretches)


def _chosen(past: dict[str, Tensor]) -> Past:
    return Past(past["means"], past["running"], past["awake"])
