"""From documents to blocks of token ids, with any Hugging Face tokenizer or one trained here."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, final

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from undense.errors import UndenseError
from undense.files import cache_folder, whole
from undense.train.corpus import Corpus, Split

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|pad|>"
_BYTES = 256


def train_tokenizer(
    texts: Iterable[str], *, vocab_size: int = 2048, context: int | None = None
) -> PreTrainedTokenizerFast:
    """A byte-level BPE: every text round-trips, and no token is unknown.

    Raises `UndenseError` where `vocab_size` cannot hold the 256 bytes and two special tokens."""
    smallest = _BYTES + 2
    if vocab_size < smallest:
        raise UndenseError(
            f"vocab_size={vocab_size}: a byte-level vocabulary needs at least {smallest} "
            "(256 bytes, end of text, padding)"
        )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        texts,
        trainer=trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT, PADDING],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return _wrapped(backend, context)


def corpus_tokenizer(
    corpus: Corpus, *, vocab_size: int, context: int, cache: Path | None = None
) -> PreTrainedTokenizerFast:
    """`train_tokenizer` on the training split, kept under `cache` (default: `cache_folder()`)."""
    folder = cache_folder() if cache is None else cache
    key = f"{corpus.sha256}-{vocab_size}-{tokenizers.__version__}"
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.tokenizer.json"
    if path.exists():
        return _wrapped(Tokenizer.from_file(str(path)), context)
    texts = (document.text for document in corpus.train)
    trained = train_tokenizer(texts, vocab_size=vocab_size, context=context)
    folder.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        trained.backend_tokenizer.save(str(partial))
    return trained


def _wrapped(backend: Tokenizer, context: int | None) -> PreTrainedTokenizerFast:
    extra: dict[str, Any] = {} if context is None else {"model_max_length": context}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
        **extra,
    )


def byte_tokenizer(*, context: int | None = None) -> PreTrainedTokenizerFast:
    """A token a byte: the byte-level BPE without a single merge, 256 bytes and two special ones."""
    return train_tokenizer((), vocab_size=_BYTES + 2, context=context)


def bytes_a_token(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """How many bytes of text each id of a byte-level tokenizer stands for; a special one for 0."""
    special = set(tokenizer.all_special_ids)
    # In the byte-level alphabet every byte is one character.
    return np.array(
        [
            0 if token in special else len(str(tokenizer.convert_ids_to_tokens(token)))
            for token in range(len(tokenizer))
        ],
        dtype=np.int64,
    )


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 of all that decides which ids a text becomes."""
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        # Truncation and padding are switched by calls, and are no part of the vocabulary.
        state.pop("truncation", None)
        state.pop("padding", None)
    else:
        state = {"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab()}
    state["end"] = end_of_text(tokenizer)
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def encode(
    corpus: Corpus,
    split: Split,
    tokenizer: PreTrainedTokenizerBase,
    *,
    cache: Path | None = None,
) -> Tensor:
    """The documents of a split as one flat int32 tensor, an end-of-text after each.

    Kept under `cache` (default: `cache_folder()`) by corpus, tokenizer and split.
    Raises `UndenseError` for a tokenizer without an end-of-text token."""
    folder = cache_folder() if cache is None else cache
    key = f"{corpus.sha256}-{tokenizer_hash(tokenizer)}-{split}"
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    if path.exists():
        return torch.from_numpy(np.load(path))
    end = end_of_text(tokenizer)
    texts = [document.text for document in corpus.documents(split)]
    # `verbose=False`: a document longer than the context is no mistake here, it is cut later.
    rows = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    ids = np.concatenate([np.asarray([*row, end], dtype=np.int32) for row in rows])
    folder.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial, partial.open("wb") as stream:
        np.save(stream, ids)
    return torch.from_numpy(ids)


@final
class BlockDataset(Dataset[dict[str, Tensor]]):
    """Non-overlapping blocks of `context` tokens; a shorter rest is dropped.

    `labels` equal `input_ids`: Hugging Face models shift by themselves, so a block of `context`
    tokens gives `context - 1` predictions."""

    def __init__(self, tokens: Tensor, context: int, *, limit: int | None = None) -> None:
        if context < 2:
            raise UndenseError(f"context={context}: a block needs at least 2 tokens")
        count = len(tokens) // context
        if count == 0:
            raise UndenseError(
                f"{len(tokens)} tokens do not fill one block of context={context}; "
                "give more text or a shorter context"
            )
        if limit is not None and limit < 1:
            raise UndenseError(f"limit={limit}: at least one block is needed, or None for all")
        count = count if limit is None else min(count, limit)
        self.blocks = tokens[: count * context].view(count, context)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        block = self.blocks[index].long()
        return {"input_ids": block, "labels": block}


def batches_hash(dataset: BlockDataset) -> str:
    """sha256 of the evaluation batches: the shape and the ids of all blocks, in order.

    How many blocks share a batch does not enter: it does not change what is predicted."""
    blocks = dataset.blocks
    digest = hashlib.sha256(np.asarray(blocks.shape, dtype="<i8").tobytes())
    digest.update(blocks.numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id between documents. Raises `UndenseError` for a tokenizer that has none."""
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise UndenseError(
            "the tokenizer has no end-of-text token, which separates documents; "
            "set tokenizer.eos_token"
        )
    return end
