"""Mixer states in the form in which transformers passes a cache around."""

from __future__ import annotations

from typing import Any, NoReturn, final

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from undense.errors import UndenseError
from undense.mixing import State


class StateLayer(CacheLayerMixin):
    """A state, None before the first token; `seen` counts padding too."""

    def __init__(self) -> None:
        super().__init__()
        self.state: State | None = None
        self.seen = 0

    def advance(self, state: State, tokens: int) -> None:
        """Keep the state after a chunk of `tokens`."""
        self.state = state
        self.seen += tokens
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Tokens that went in, padding included."""
        return self.seen

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that a mask over all tokens has, and where they start."""
        return self.seen + query_length, 0

    def reset(self) -> None:
        """Forget everything."""
        self.state, self.seen, self.is_initialized = None, 0, False

    def _pick(self, rows: Tensor) -> None:
        if self.state is not None:
            self.state = tuple(
                tensor.index_select(0, rows.to(tensor.device)) for tensor in self.state
            )

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes the former row `beam_idx[i]`, as beam search asks."""
        self._pick(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row `repeats` times in a row."""
        if self.state is not None:
            rows = torch.arange(len(self.state[0]), device=self.state[0].device)
            self._pick(rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices`."""
        self._pick(indices)

    def crop(self, tokens_to_remove: int) -> NoReturn:
        """A state cannot go back in time; keep a copy of the earlier one."""
        raise UndenseError(
            f"a state cannot be shortened (by {abs(tokens_to_remove)} tokens, as assisted decoding"
            " asks): it does not hold the tokens before; copy the cache (copy.deepcopy) before,"
            " or start again"
        )

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> NoReturn:
        """Only for keys and values, which a state need not have."""
        raise _no_keys()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> NoReturn:
        """Only for keys and values, which a state need not have."""
        raise _no_keys()

    def offload(self) -> None:
        """To the CPU."""
        self._move("cpu")

    def prefetch(self) -> None:
        """States are read where they are; nothing to fetch ahead."""

    def _move(self, device: str) -> None:
        if self.state is not None:
            self.state = tuple(tensor.to(device) for tensor in self.state)


@final
class MixerState(StateLayer):
    """What one layer's mixer remembers."""


@final
class FFNStates(StateLayer):
    """What the FFNs that read earlier tokens remember, in the order of the layers; one more layer
    of a model's cache, after its own."""


def _no_keys() -> UndenseError:
    return UndenseError(
        "a spectral model's cache takes whole states, not keys and values; pass SpectralCache, as"
        " the model makes it"
    )


@final
class SpectralCache(Cache):
    """One `MixerState` a layer, and `FFNStates` where there are FFNs that read earlier tokens.
    `to_tensors` and `from_tensors` carry it across processes."""

    layers: list[StateLayer]

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[MixerState() for _ in range(layers)])

    @property
    def mixers(self) -> list[StateLayer]:
        """The layers of the mixers."""
        return [layer for layer in self.layers if not isinstance(layer, FFNStates)]

    def nbytes(self) -> int:
        """Bytes of all states."""
        return sum(
            tensor.numel() * tensor.element_size()
            for layer in self.layers
            for tensor in layer.state or ()
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """The states as named tensors, for `safetensors.torch.save_file`; see `from_tensors`."""
        found: dict[str, Tensor] = {}
        for number, layer in enumerate(self.layers):
            name = "ffn" if isinstance(layer, FFNStates) else str(number)
            found[f"{name}.seen"] = torch.tensor(layer.seen)
            for index, tensor in enumerate(layer.state or ()):
                found[f"{name}.{index}"] = tensor.contiguous()
        return found

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> SpectralCache:
        """The inverse of `to_tensors`. Raises `UndenseError` where they are no such cache."""
        names = {key.partition(".")[0] for key in tensors if key.endswith(".seen")}
        numbers = sorted(int(name) for name in names if name.isdigit())
        if (
            not numbers
            or numbers != list(range(len(numbers)))
            or names - {"ffn"} - set(map(str, numbers))
        ):
            raise UndenseError(
                f"no cache of a spectral model: keys {sorted(tensors)[:4]} …, expected '0.seen',"
                " '0.0' and so on, as SpectralCache.to_tensors gives them"
            )
        cache = cls(len(numbers))
        if "ffn" in names:
            cache.layers.append(FFNStates())
        for name, layer in zip([*map(str, numbers), "ffn"], cache.layers, strict=False):
            count = sum(key.startswith(f"{name}.") for key in tensors) - 1
            try:
                state = tuple(tensors[f"{name}.{index}"] for index in range(count))
            except KeyError as missing:
                raise UndenseError(f"the cache of layer {name} lacks {missing}") from None
            if state:
                layer.advance(state, int(tensors[f"{name}.seen"]))
        return cache
