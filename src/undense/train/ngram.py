"""Count-based language models: what a network must beat to have learned anything.

Interpolated modified Kneser-Ney, Chen & Goodman 1999,
https://dash.harvard.edu/handle/1/25104739 (their eq. 13-17), over token ids."""

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import final

import numpy as np
from numpy.typing import NDArray

from undense.errors import UndenseError
from undense.files import cache_folder, write_json

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
_MISSING = -1


@dataclass(frozen=True, kw_only=True)
class _Level:
    """All n-grams of one length. An n-gram is (index of its first n−1 tokens, last token)."""

    keys: Ids  # sorted: prefix index × vocabulary + last token
    discounted: Floats  # per n-gram: max(count − D(count), 0)
    total: Floats  # per prefix: the sum of its counts
    backoff: Floats  # per prefix: the discounted mass, as a share of `total`


@final
class NGramModel:
    """p_n(w | h) = max(c(h w) − D(c), 0) / c(h) + γ(h) · p_{n−1}(w | h without its first token).

    The longest n-grams use counts, shorter ones the number of different tokens before them
    (Kneser-Ney's continuation counts); p_0 is uniform. D has three values an order, for counts
    of 1, 2 and 3 or more. A prefix that was never seen passes all its mass on."""

    def __init__(self, levels: list[_Level], vocab_size: int) -> None:
        self.order = len(levels)
        self.vocab_size = vocab_size
        self._levels = levels

    @classmethod
    def fit(cls, tokens: Ids, *, vocab_size: int, order: int) -> "NGramModel":
        """From a flat array of token ids below `vocab_size`.

        Raises `UndenseError` where the tokens are fewer than `order`."""
        if order < 1 or len(tokens) < order:
            raise UndenseError(
                f"an n-gram model of order={order} needs order ≥ 1 and at least that many "
                f"tokens, not {len(tokens)}"
            )
        tokens = tokens.astype(np.int64)
        # index[i]: which n-gram ends at position i. Pairing the index of the (n−1)-gram with one
        # more token keeps every key in 64 bits, for any vocabulary and any order.
        prefix = ending = np.zeros(len(tokens), dtype=np.int64)
        prefixes = 1
        tables: list[tuple[Ids, Ids, int]] = []  # keys, counts, number of prefixes
        for n in range(1, order + 1):
            ends = np.arange(n - 1, len(tokens))
            keys, first, index, counts = np.unique(
                prefix[ends] * vocab_size + tokens[ends],
                return_index=True,
                return_inverse=True,
                return_counts=True,
            )
            if n > 1:
                # Each different n-gram is one more left neighbour of its last n−1 tokens,
                # which are the shorter n-gram that ends at the same position.
                shorter, _, shorter_prefixes = tables[-1]
                tables[-1] = (
                    shorter,
                    np.bincount(ending[ends[first]], minlength=len(shorter)),
                    shorter_prefixes,
                )
            tables.append((keys, counts, prefixes))
            ending = np.full(len(tokens), _MISSING, dtype=np.int64)
            ending[ends] = index
            prefix = np.roll(ending, 1)  # what stands before position i ends at i − 1
            prefixes = len(keys)
        return cls([_level(*table, vocab_size) for table in tables], vocab_size)

    def probabilities(self, blocks: Ids) -> Floats:
        """(blocks, time) ids -> (blocks, time − 1): of each token but the first of its block,
        given what stands before it in the same block, as a transformer sees it."""
        blocks = blocks.astype(np.int64)
        rows, time = blocks.shape
        result = np.full((rows, time), 1.0 / self.vocab_size)
        prefix = np.zeros((rows, time), dtype=np.int64)
        for level in self._levels:
            keys = np.where(prefix == _MISSING, _MISSING, prefix * self.vocab_size + blocks)
            found = np.minimum(np.searchsorted(level.keys, keys), len(level.keys) - 1)
            found = np.where(level.keys[found] == keys, found, _MISSING)
            total = np.where(prefix == _MISSING, 0.0, level.total[prefix])
            seen = total > 0
            mass = np.where(found == _MISSING, 0.0, level.discounted[found])
            level_probability = mass / np.where(seen, total, 1.0) + level.backoff[prefix] * result
            result = np.where(seen, level_probability, result)
            prefix = np.roll(found, 1, axis=1)
            prefix[:, 0] = _MISSING  # a block does not see the one before it
        return result[:, 1:]

    def loss(self, blocks: Ids) -> float:
        """Mean nats per predicted token."""
        # In slices: a level holds several arrays of the slice's size at once.
        parts = np.array_split(blocks, max(1, blocks.size // 1_000_000))
        total = sum(float(np.log(self.probabilities(part)).sum()) for part in parts)
        return -total / (blocks.shape[0] * (blocks.shape[1] - 1))


def ngram_losses(tokens: Ids, blocks: Ids, *, vocab_size: int) -> dict[str, float]:
    """Held-out loss of the unigram, bigram and 5-gram models of `tokens`, on `blocks`."""
    orders = {"unigram": 1, "bigram": 2, "5-gram": 5}
    return {
        name: NGramModel.fit(tokens, vocab_size=vocab_size, order=order).loss(blocks)
        for name, order in orders.items()
    }


def kept_ngram_losses(tokens: Ids, blocks: Ids, *, vocab_size: int) -> dict[str, float]:
    """`ngram_losses`, kept in `cache_folder()` by what they depend on: of many runs on one corpus
    only the first counts."""
    digest = sha256(f"{vocab_size} {blocks.shape}".encode())
    for ids in (tokens, blocks):
        digest.update(np.ascontiguousarray(ids, dtype="<i8").tobytes())
    path = cache_folder() / f"{digest.hexdigest()[:32]}.ngrams.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, ngram_losses(tokens, blocks, vocab_size=vocab_size))
    return json.loads(path.read_text(encoding="utf-8"))


def _level(keys: Ids, counts: Ids, prefixes: int, vocab_size: int) -> _Level:
    owner = keys // vocab_size
    discount = _discounts(counts)[np.minimum(counts, 3)]
    total = _sums(owner, counts, prefixes)
    kept = np.maximum(counts - discount, 0.0)
    held = _sums(owner, counts - kept, prefixes)
    backoff = held / np.where(total > 0, total, 1.0)
    return _Level(keys=keys, discounted=kept, total=total, backoff=backoff)


def _sums(owner: Ids, values: Ids | Floats, owners: int) -> Floats:
    return np.bincount(owner, weights=values, minlength=owners).astype(np.float64)


def _discounts(counts: Ids) -> Floats:
    """D for counts of 0, 1, 2, and 3 or more, from the counts of counts n_k:
    Y = n₁ / (n₁ + 2 n₂), D_k = k − (k + 1) · Y · n_{k+1} / n_k."""
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(np.float64)
    # Without singletons the estimate degenerates to zero, and unseen tokens to probability zero.
    y = n[1] / (n[1] + 2 * n[2]) if n[1] > 0 else 0.5
    discounts = np.zeros(4)
    for k in (1, 2, 3):
        estimate = k - (k + 1) * y * n[k + 1] / n[k] if n[k] > 0 else y
        # Small corpora leave the range in which the estimate means something.
        discounts[k] = np.clip(estimate, 0.1, k)
    return discounts
