import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from undense.errors import UndenseError
from undense.train.ngram import NGramModel, kept_ngram_losses, ngram_losses

VOCABULARY = 7


class BruteForce:
    """Interpolated modified Kneser-Ney by dictionaries and recursion, straight from the paper."""

    def __init__(self, tokens: list[int], order: int) -> None:
        self.order = order
        grams = {
            n: [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
            for n in range(1, order + 1)
        }
        self.counts: dict[int, Counter] = {order: Counter(grams[order])}
        for n in range(1, order):
            self.counts[n] = Counter(gram[1:] for gram in set(grams[n + 1]))
        self.discounts = {n: self._discounts(counts) for n, counts in self.counts.items()}
        self.followers = {n: defaultdict(dict) for n in self.counts}
        for n, counts in self.counts.items():
            for gram, count in counts.items():
                self.followers[n][gram[:-1]][gram[-1]] = count

    @staticmethod
    def _discounts(counts: Counter) -> dict[int, float]:
        n = Counter(counts.values())
        y = n[1] / (n[1] + 2 * n[2]) if n[1] else 0.5
        raw = {k: k - (k + 1) * y * n[k + 1] / n[k] if n[k] else y for k in (1, 2, 3)}
        return {k: min(max(value, 0.1), k) for k, value in raw.items()}

    def probability(self, token: int, history: tuple[int, ...], n: int) -> float:
        if n == 0:
            return 1 / VOCABULARY
        history = history[len(history) - (n - 1) :]
        lower = self.probability(token, history[1:], n - 1)
        followers = self.followers[n].get(history)
        if not followers:
            return lower
        total = sum(followers.values())
        kept = {
            w: max(count - self.discounts[n][min(count, 3)], 0) for w, count in followers.items()
        }
        held = sum(followers[w] - kept[w] for w in followers)
        return kept.get(token, 0) / total + held / total * lower

    def loss(self, blocks: list[list[int]]) -> float:
        logs = [
            math.log(self.probability(row[t], tuple(row[:t]), min(self.order, t + 1)))
            for row in blocks
            for t in range(1, len(row))
        ]
        return -sum(logs) / len(logs)


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    """A Markov chain that never emits its last token, so that the unseen is tested as well."""
    draw = np.random.default_rng(0)
    chain = draw.dirichlet(np.full(VOCABULARY - 1, 0.3), size=VOCABULARY - 1)
    ids = [0]
    for _ in range(400):
        ids.append(int(draw.choice(VOCABULARY - 1, p=chain[ids[-1]])))
    return np.array(ids)


@pytest.fixture(scope="module")
def blocks() -> np.ndarray:
    return np.random.default_rng(1).integers(0, VOCABULARY, size=(12, 9))


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_the_loss_is_that_of_the_brute_force_model(tokens, blocks, order):
    model = NGramModel.fit(tokens, vocab_size=VOCABULARY, order=order)
    expected = BruteForce(tokens.tolist(), order).loss(blocks.tolist())
    assert model.loss(blocks) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_the_probabilities_of_all_tokens_sum_to_one_after_any_history(tokens, order):
    model = NGramModel.fit(tokens, vocab_size=VOCABULARY, order=order)
    draw = np.random.default_rng(2)
    seen = tokens[100:105].tolist()
    for history in (seen, draw.integers(0, VOCABULARY, size=5).tolist(), [VOCABULARY - 1] * 5):
        rows = np.array([[*history, token] for token in range(VOCABULARY)])
        assert model.probabilities(rows)[:, -1].sum() == pytest.approx(1.0, abs=1e-12)
        assert (model.probabilities(rows) > 0).all()


def test_a_block_does_not_see_the_block_before_it(tokens, blocks):
    model = NGramModel.fit(tokens, vocab_size=VOCABULARY, order=5)
    together = model.probabilities(blocks)
    alone = np.concatenate([model.probabilities(row[None]) for row in blocks])
    np.testing.assert_array_equal(together, alone)


def test_longer_histories_help_on_text_that_has_them():
    draw = np.random.default_rng(3)
    phrases = draw.integers(0, 50, size=(20, 6))
    stream = phrases[draw.integers(0, 20, size=2000)].reshape(-1)
    losses = ngram_losses(stream[:10_000], stream[10_000:].reshape(-1, 20), vocab_size=50)
    assert losses["unigram"] > losses["bigram"] > losses["5-gram"]
    assert losses["5-gram"] < 1.0


def test_only_which_ids_are_equal_matters_and_not_how_large_they_are(tokens, blocks):
    # 49152⁵ does not fit 64 bits: keys built as one number an n-gram would overflow here.
    small, large = (
        NGramModel.fit(tokens + shift, vocab_size=49_152, order=5).probabilities(blocks + shift)
        for shift in (0, 49_000)
    )
    np.testing.assert_array_equal(small, large)


def test_fewer_tokens_than_the_order_are_refused():
    with pytest.raises(UndenseError, match="order=5"):
        NGramModel.fit(np.array([1, 2, 3]), vocab_size=4, order=5)


def test_losses_are_kept_by_what_they_depend_on(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("UNDENSE_CACHE", str(tmp_path / "cache"))
    stream = np.random.default_rng(0).integers(20, size=600)
    blocks = stream[500:].reshape(-1, 10)
    first = kept_ngram_losses(stream[:500], blocks, vocab_size=20)
    assert first == ngram_losses(stream[:500], blocks, vocab_size=20)
    monkeypatch.setattr("undense.train.ngram.ngram_losses", lambda *args, **_: {"unigram": -1.0})
    assert kept_ngram_losses(stream[:500], blocks, vocab_size=20) == first
    assert kept_ngram_losses(stream[:499], blocks, vocab_size=20) == {"unigram": -1.0}
