"""`SpectralModel` and `SpectralForCausalLM`: language models whose mixers are causal and stream."""

from __future__ import annotations

from typing import Any, cast, final

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from undense.contract import FFNComponent
from undense.convert.sequences import keep_past
from undense.errors import UndenseError
from undense.mixing import SequenceMixer
from undense.models.block import SpectralBlock
from undense.models.cache import SpectralCache
from undense.models.config import SpectralConfig
from undense.models.embedding import UnitEmbedding

# Tokens that go through all layers together where no gradient is wanted: the memory of a long text
# is then that of its last hidden states.
PREFILL = 4096


class SpectralPreTrainedModel(PreTrainedModel):
    """What both classes share: names, initialisation, what transformers may do with them."""

    config_class = SpectralConfig
    config: SpectralConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["SpectralBlock"]  # noqa: RUF012  (as transformers has it)
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _is_stateful = True  # a state cannot be cropped: no assisted decoding

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The embedding alone: mixers, FFNs and norms start as they were built."""
        if isinstance(module, UnitEmbedding):
            module.reset_parameters()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # the model makes its own


@final
class SpectralModel(SpectralPreTrainedModel):
    """Embedding, `num_hidden_layers` blocks, a norm: (batch, time) ids to (batch, time, width)."""

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__(config)
        self.embed_tokens = UnitEmbedding(config.vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            SpectralBlock(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        for module in self.modules():
            if isinstance(module, SequenceMixer | FFNComponent):
                for part in module.modules():  # it initialises itself
                    part.__dict__["_is_hf_initialized"] = True
            if isinstance(module, FFNComponent):
                keep_past(self, module)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states of a chunk, and with `use_cache` the cache from which the text goes on.

        `attention_mask` (batch, past and present tokens or present alone): 0 for padding, on
        either side. Raises `UndenseError` for both or neither of ids and embeddings, and for a
        cache of another kind.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise UndenseError("spectral: give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.embed_tokens(input_ids)
        assert inputs_embeds is not None
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        cache = self._cache(past_key_values, use_cache)
        mask = _chunk_mask(attention_mask, inputs_embeds.shape[1])
        x = self.dropout(inputs_embeds)
        seen: list[Tensor] | None = [] if output_hidden_states else None
        if x.shape[1] > PREFILL and seen is None and self._streams():
            cache = SpectralCache(len(self.layers)) if cache is None else cache
            masks = [None] * x.shape[1] if mask is None else mask.split(PREFILL, 1)
            pieces = zip(x.split(PREFILL, 1), masks, strict=False)
            x = torch.cat([self._through(piece, cache, part, None) for piece, part in pieces], 1)
        else:
            x = self._through(x, cache, mask, seen)
        return BaseModelOutputWithPast(
            last_hidden_state=x,
            past_key_values=cache if use_cache else None,
            hidden_states=None if seen is None else (*seen, x),
        )

    def _through(
        self, x: Tensor, cache: SpectralCache | None, mask: Tensor | None, seen: list[Tensor] | None
    ) -> Tensor:
        """All layers and the norm; what enters each layer goes into `seen`."""
        for number, block in enumerate(self.layers):
            if seen is not None:
                seen.append(x)
            state = None if cache is None else cache.layers[number].state
            x, state = block(x, state, mask)
            if cache is not None:
                cache.layers[number].advance(state, x.shape[1])
        return self.norm(x)

    def _streams(self) -> bool:
        """Whether a long text can go through all layers piece by piece: without gradients, with
        states that do not grow, and FFNs that see one token at a time."""
        mixers = [cast(SpectralBlock, block).mixer for block in self.layers]
        ffns = [cast(SpectralBlock, block).ffn for block in self.layers]
        return (
            not torch.is_grad_enabled()
            and not any(slot.grows for mixer in mixers for slot in mixer.layout())
            and all(ffn.config.token_local for ffn in ffns)
        )

    def _cache(self, given: Cache | None, use_cache: bool) -> SpectralCache | None:
        if given is None:
            return SpectralCache(len(self.layers)) if use_cache else None
        if not isinstance(given, SpectralCache) or len(given.mixers) != len(self.layers):
            raise UndenseError(
                f"spectral: past_key_values is a {type(given).__name__} of {len(given)} layers;"
                f" give the SpectralCache of {len(self.layers)} layers that this model returned"
            )
        return given


def _chunk_mask(attention_mask: Tensor | None, time: int) -> Tensor | None:
    """The part of a mask that concerns the last `time` tokens, (batch, time) bool.

    None where it hides nothing, so that unpadded text takes the plain path; a graph that is being
    traced cannot look at the values, and keeps the mask.
    """
    if attention_mask is None:
        return None
    if attention_mask.dim() != 2 or attention_mask.shape[1] < time:
        raise UndenseError(
            f"spectral: attention_mask of shape {tuple(attention_mask.shape)} must be (batch,"
            f" tokens) with at least the {time} tokens given"
        )
    mask = attention_mask[:, -time:].bool()
    if not torch.compiler.is_compiling() and mask.device.type != "meta" and bool(mask.all()):
        return None
    return mask


@final
class SpectralForCausalLM(SpectralPreTrainedModel, GenerationMixin):
    """`SpectralModel` with a head over the vocabulary; `generate` works as for any causal model.

    Greedy, sampling and beam search reuse the state: a new token costs the same at any length.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__(config)
        self.model = SpectralModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits (batch, time, vocab), of the last `logits_to_keep` tokens where that is not 0, and
        with `labels` the loss in nats per token (labels are shifted here; -100 is ignored)."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
        )
        hidden = outputs.last_hidden_state
        if isinstance(logits_to_keep, Tensor):
            hidden = hidden[:, logits_to_keep]
        elif logits_to_keep:
            hidden = hidden[:, -logits_to_keep:]
        logits = self.lm_head(hidden)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        result = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
        )
        return result if return_dict in (None, True) else result.to_tuple()
