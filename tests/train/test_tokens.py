import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from undense.errors import UndenseError
from undense.train.corpus import load_corpus
from undense.train.tokens import (
    BlockDataset,
    batches_hash,
    byte_tokenizer,
    bytes_a_token,
    corpus_tokenizer,
    encode,
    end_of_text,
    tokenizer_hash,
    train_tokenizer,
)


@pytest.fixture(scope="module")
def corpus(text_folder):
    return load_corpus(text_folder)


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return train_tokenizer((document.text for document in corpus.train), vocab_size=300)


@given(text=st.text())
def test_every_text_round_trips(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@given(text=st.text())
def test_bytes_are_a_token_each_and_round_trip(text):
    tokenizer = byte_tokenizer()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == len(text.encode()) and len(tokenizer) == 258
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@given(text=st.text())
def test_tokens_stand_for_the_bytes_of_their_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert sum(bytes_a_token(tokenizer)[ids]) == len(text.encode())
    assert bytes_a_token(tokenizer)[end_of_text(tokenizer)] == 0


def test_training_the_tokenizer_again_gives_the_same_one(corpus, tokenizer):
    again = train_tokenizer((document.text for document in corpus.train), vocab_size=300)
    assert tokenizer_hash(again) == tokenizer_hash(tokenizer)
    other = train_tokenizer((document.text for document in corpus.train), vocab_size=290)
    assert tokenizer_hash(other) != tokenizer_hash(tokenizer)


def test_a_kept_tokenizer_is_the_one_that_was_trained(corpus, tokenizer, tmp_path):
    first = corpus_tokenizer(corpus, vocab_size=300, context=16, cache=tmp_path)
    kept = corpus_tokenizer(corpus, vocab_size=300, context=32, cache=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]
    assert tokenizer_hash(first) == tokenizer_hash(kept) == tokenizer_hash(tokenizer)
    assert (first.model_max_length, kept.model_max_length) == (16, 32)
    corpus_tokenizer(corpus, vocab_size=290, context=32, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_saving_and_using_a_tokenizer_leave_its_hash(tokenizer, tmp_path):
    before = tokenizer_hash(tokenizer)
    tokenizer(["a", "a long text"], padding=True, truncation=True, max_length=3)
    assert tokenizer_hash(tokenizer) == before
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_hash(PreTrainedTokenizerFast.from_pretrained(tmp_path)) == before


def test_a_split_becomes_its_documents_with_an_end_after_each(corpus, tokenizer, tmp_path):
    ids = encode(corpus, "heldout", tokenizer, cache=tmp_path)
    assert ids.dtype == torch.int32 and ids.ndim == 1
    assert int((ids == end_of_text(tokenizer)).sum()) == len(corpus.heldout)
    expected = "<|endoftext|>".join([document.text for document in corpus.heldout] + [""])
    assert tokenizer.decode(ids.tolist()) == expected


def test_the_second_time_the_tokens_come_from_the_cache(corpus, tokenizer, tmp_path):
    first = encode(corpus, "train", tokenizer, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    np.save(file, np.arange(5, dtype=np.int32))
    assert encode(corpus, "train", tokenizer, cache=tmp_path).tolist() == [0, 1, 2, 3, 4]
    assert len(first) > 5


def test_another_tokenizer_and_another_split_have_their_own_cache(corpus, tokenizer, tmp_path):
    backend = Tokenizer(models.WordLevel({"?": 0, "</s>": 1, "cat": 2}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="?")
    train = encode(corpus, "train", words, cache=tmp_path)
    assert set(train.tolist()) == {0, 1, 2}
    encode(corpus, "heldout", words, cache=tmp_path)
    encode(corpus, "train", tokenizer, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_tokenizer_without_an_end_is_refused(corpus, tmp_path):
    backend = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    with pytest.raises(UndenseError, match="no end-of-text token"):
        encode(corpus, "train", PreTrainedTokenizerFast(tokenizer_object=backend), cache=tmp_path)


def test_a_vocabulary_smaller_than_the_bytes_is_refused():
    with pytest.raises(UndenseError, match="at least 258"):
        train_tokenizer(["text"], vocab_size=100)


def test_blocks_follow_one_another_and_the_rest_is_dropped():
    dataset = BlockDataset(torch.arange(10, dtype=torch.int32), 4)
    assert len(dataset) == 2
    assert dataset[1]["input_ids"].tolist() == [4, 5, 6, 7]
    assert dataset[1]["labels"].tolist() == [4, 5, 6, 7]
    assert dataset[1]["input_ids"].dtype == torch.int64
    assert len(BlockDataset(torch.arange(10), 4, limit=1)) == 1


@pytest.mark.parametrize(("context", "says"), [(11, "do not fill one block"), (1, "at least 2")])
def test_a_context_that_gives_no_prediction_is_refused(context, says):
    with pytest.raises(UndenseError, match=says):
        BlockDataset(torch.arange(10), context)


def test_the_hash_sees_ids_order_and_block_length_but_not_the_stored_type():
    tokens = torch.arange(24, dtype=torch.int32)
    reference = batches_hash(BlockDataset(tokens, 4))
    assert batches_hash(BlockDataset(tokens.long(), 4)) == reference
    assert batches_hash(BlockDataset(tokens.flip(0), 4)) != reference
    assert batches_hash(BlockDataset(tokens, 6)) != reference
    assert batches_hash(BlockDataset(tokens, 4, limit=5)) != reference
