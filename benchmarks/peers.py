"""Other people's mixers behind our contract, so that they run in the same host on the same work.

Each is the mixer module that transformers ships, with its own CPU path, unchanged: Mamba-2 (chunked
PyTorch), gated DeltaNet as in Qwen3-Next (chunked PyTorch), xLSTM's mLSTM (native PyTorch),
lightning attention as in MiniMax (fixed decay, the RetNet class), RWKV-4 (a loop over tokens).
`inner` is the width of the values, by which parameters are matched. For benchmarks only: their
state is an opaque object, so there is no reordering and no counting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    Mamba2Config,
    MiniMaxConfig,
    Qwen3NextConfig,
    RwkvConfig,
    xLSTMConfig,
)
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer
from transformers.models.minimax.modeling_minimax import MiniMaxCache, MiniMaxLightningAttention
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet
from transformers.models.rwkv.modeling_rwkv import RwkvSelfAttention
from transformers.models.xlstm.modeling_xlstm import xLSTMLayer

from undense.cost import Cost
from undense.errors import UndenseError
from undense.mixing import MixerConfig, SequenceMixer, Slot, State, build, mixer_class, register

PEERS = ("mamba2", "gated_deltanet", "xlstm", "lightning", "rwkv4")


@dataclass(frozen=True, kw_only=True)
class PeerConfig(MixerConfig):
    """`heads`; `inner`: width of the values."""

    heads: int = 4
    inner: int = 256


class Peer(SequenceMixer):
    """What the peers share: an opaque state, no cost formula."""

    config: PeerConfig

    def layout(self) -> tuple[Slot, ...]:
        return ()

    def cost(self, batch: int, length: int, *, past: int = 0) -> Cost:
        raise UndenseError(f"{self.component}: a peer is timed, not counted")


@register("mamba2")
class Mamba2(Peer):
    """https://arxiv.org/abs/2405.21060; state size 64, chunks of 64."""

    @dataclass(frozen=True, kw_only=True)
    class Config(PeerConfig):
        """See `PeerConfig`."""

    def __init__(self, dim: int, config: PeerConfig) -> None:
        super().__init__(dim, config)
        if config.inner % dim:
            raise UndenseError(f"mamba2: inner={config.inner} must be a multiple of dim={dim}")
        width = config.inner // config.heads
        self.host = Mamba2Config(
            hidden_size=dim, num_heads=config.heads, head_dim=width, state_size=64, n_groups=1,
            expand=config.inner // dim, chunk_size=64, num_hidden_layers=1,
        )  # fmt: skip
        self.inner = Mamba2Mixer(self.host, 0)

    def forward(
        self, x: Tensor, state: State | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        cache = cast(Any, state)[0] if state else DynamicCache(config=self.host)
        if torch.is_grad_enabled():
            return self.inner(x, attention_mask=mask), ()
        return self.inner(x, cache_params=cache, attention_mask=mask), (cache,)


@register("gated_deltanet")
class GatedDeltaNet(Peer):
    """https://arxiv.org/abs/2412.06464, keys of 64 features."""

    @dataclass(frozen=True, kw_only=True)
    class Config(PeerConfig):
        """See `PeerConfig`."""

    def __init__(self, dim: int, config: PeerConfig) -> None:
        super().__init__(dim, config)
        self.host = Qwen3NextConfig(
            hidden_size=dim, num_hidden_layers=1, layer_types=["linear_attention"],
            linear_num_key_heads=config.heads, linear_num_value_heads=config.heads,
            linear_key_head_dim=64, linear_value_head_dim=config.inner // config.heads,
        )  # fmt: skip
        self.inner = Qwen3NextGatedDeltaNet(self.host, 0)

    def forward(
        self, x: Tensor, state: State | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        if torch.is_grad_enabled():
            return self.inner(x, attention_mask=mask), ()
        cache = cast(Any, state)[0] if state else DynamicCache(config=self.host)
        return self.inner(x, cache_params=cache, attention_mask=mask), (cache,)


@register("xlstm")
class XLSTM(Peer):
    """https://arxiv.org/abs/2405.04517, mLSTM layer in chunks of 64."""

    @dataclass(frozen=True, kw_only=True)
    class Config(PeerConfig):
        """See `PeerConfig`."""

    def __init__(self, dim: int, config: PeerConfig) -> None:
        super().__init__(dim, config)
        self.host = xLSTMConfig(
            hidden_size=dim, num_heads=config.heads, num_hidden_layers=1, chunk_size=64,
            qk_dim_factor=1.0, v_dim_factor=config.inner / dim, return_last_states=True,
        )  # fmt: skip
        self.inner = xLSTMLayer(self.host)

    def forward(
        self, x: Tensor, state: State | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        y, after = self.inner(x, cast(Any, state) or None)
        return y, tuple(after) if after is not None and not torch.is_grad_enabled() else ()


@register("lightning")
class Lightning(Peer):
    """https://arxiv.org/abs/2401.04658: linear attention with a fixed decay a head, as RetNet."""

    @dataclass(frozen=True, kw_only=True)
    class Config(PeerConfig):
        """See `PeerConfig`."""

    def __init__(self, dim: int, config: PeerConfig) -> None:
        super().__init__(dim, config)
        # Of two layers the first: with one alone its formula for the decays divides by nearly zero.
        self.host = MiniMaxConfig(
            hidden_size=dim, num_attention_heads=config.heads, num_hidden_layers=2,
            head_dim=config.inner // config.heads, block_size=64,
            layer_types=["linear_attention", "full_attention"],
        )  # fmt: skip
        self.inner = MiniMaxLightningAttention(self.host, 0)

    def forward(
        self, x: Tensor, state: State | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        cache = cast(Any, state)[0] if state else MiniMaxCache()
        grads = torch.is_grad_enabled()
        nothing = cast(Any, None)
        y, _ = self.inner(x, nothing, mask, past_key_values=None if grads else cache)
        return y, () if grads else (cache,)


@register("rwkv4")
class RWKV4(Peer):
    """https://arxiv.org/abs/2305.13048: on the CPU a Python loop over tokens."""

    @dataclass(frozen=True, kw_only=True)
    class Config(PeerConfig):
        """See `PeerConfig`."""

    def __init__(self, dim: int, config: PeerConfig) -> None:
        super().__init__(dim, config)
        self.host = RwkvConfig(
            hidden_size=dim, attention_hidden_size=config.inner, num_hidden_layers=1
        )
        self.inner = RwkvSelfAttention(self.host)
        with torch.no_grad():  # transformers fills these from the whole model
            self.inner.time_decay.copy_(torch.linspace(-5, 3, config.inner))
            self.inner.time_first.fill_(-1.2)
            for mix in ("key", "value", "receptance"):
                getattr(self.inner, f"time_mix_{mix}").fill_(0.5)

    def forward(
        self, x: Tensor, state: State | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        if torch.is_grad_enabled():
            return self.inner(x)[0], ()
        if not state:
            small = x.new_zeros(len(x), self.dim, 1)
            wide = x.new_zeros(len(x), self.config.inner, 1)
            state = (small, small.clone(), wide, wide.clone(), wide - 1e30)
        y, after = self.inner(x, list(state), use_cache=True)
        return y, tuple(after)


def matched(name: str, dim: int, heads: int, parameters: int) -> PeerConfig:
    """The peer's config whose parameters come closest to `parameters`, of its widths."""
    cls = mixer_class(name).Config

    def off(config: Any) -> int:
        try:
            with torch.device("meta"):
                return abs(parameters_of(build(dim, config)) - parameters)
        except UndenseError:  # a width that it cannot have
            return 2 * parameters

    configs = [cls(heads=heads, inner=heads * width) for width in range(16, 257, 8)]
    return cast(PeerConfig, min(configs, key=off))


def parameters_of(mixer: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in mixer.parameters())
