"""What a language model is timed at: reading a prompt, writing after it, a training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from undense.errors import UndenseError


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The tokens that every arm sees: `ids` (batch, prompt and new), of which `tokens` are the
    prompt."""

    ids: Tensor
    tokens: int

    @classmethod
    def drawn(cls, config: Any, *, batch: int, tokens: int, new: int, seed: int) -> Batch:
        """Random tokens. Raises `UndenseError` where the model has no positions for so many."""
        limit = getattr(config, "max_position_embeddings", None)
        if limit is not None and tokens + new > limit:
            raise UndenseError(
                f"{tokens} + {new} tokens exceed the {limit} positions that the model has; give"
                " fewer --tokens"
            )
        draw = torch.Generator().manual_seed(seed)
        size = (batch, tokens + new)
        return cls(ids=torch.randint(config.vocab_size, size, generator=draw), tokens=tokens)

    @property
    def hash(self) -> str:
        """Of the tokens, to see that two measurements were of the same ones."""
        return sha256(self.ids.numpy().tobytes()).hexdigest()[:16]

    def call(self, workload: str, model: Any) -> Callable[[], object]:
        """One call of a workload. `prefill` leaves a filled cache and the last token's logits;
        `decode` reads the new tokens one by one after the prompt, which is read beforehand;
        `training` is forward and backward with the next tokens as labels, without an optimizer."""
        return {"prefill": self._prefill, "decode": self._decode, "training": self._training}[
            workload
        ](model)

    def rows(self, workload: str) -> int:
        """Tokens that one call of the model sees."""
        return len(self.ids) * (1 if workload == "decode" else self.tokens)

    def _prefill(self, model: Any) -> Callable[[], object]:
        prompt = self.ids[:, : self.tokens]

        def call() -> object:
            model.eval()
            with torch.no_grad():
                return model(input_ids=prompt, use_cache=True, logits_to_keep=1).logits

        return call

    def _decode(self, model: Any) -> Callable[[], object]:
        cache = DynamicCache(config=model.config)
        new = self.ids[:, self.tokens :]
        with torch.no_grad():
            prompt = self.ids[:, : self.tokens]
            model.eval()(input_ids=prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)

        def call() -> object:
            model.eval()
            logits = None
            with torch.no_grad():
                for place in range(new.shape[1]):
                    token = new[:, place : place + 1]
                    logits = model(input_ids=token, past_key_values=cache, use_cache=True).logits
            cache.crop(-new.shape[1])
            assert cache.get_seq_length() == self.tokens
            return logits

        return call

    def _training(self, model: Any) -> Callable[[], object]:
        ids = self.ids[:, : self.tokens]

        def call() -> object:
            model.train()
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
            model.zero_grad(set_to_none=True)
            return loss

        return call
