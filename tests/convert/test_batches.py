import pytest
import torch
from transformers import GPT2Model

from undense.convert.batches import checked
from undense.convert.self_sampling import self_sampled
from undense.errors import UndenseError


def test_tensors_and_mappings_become_masked_batches(gpt2, text):
    mask = torch.ones_like(text)
    mask[:, 20:] = 0
    one, two, three = checked(
        gpt2, [text, {"input_ids": text, "attention_mask": mask, "labels": text}, text[0]]
    )
    assert one["attention_mask"].all()
    assert set(two) == {"input_ids", "attention_mask"}
    assert torch.equal(two["attention_mask"], mask)
    assert three["input_ids"].shape == (1, 32)


def test_a_single_batch_needs_no_list(gpt2, text):
    assert len(checked(gpt2, text)) == len(checked(gpt2, {"input_ids": text})) == 1


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([], "empty"),
        ([{"ids": torch.zeros(1, 4).long()}], "input_ids"),
        ([torch.zeros(1, 4)], "integer tensors"),
        (["some text"], "integer tensors of token ids; input_ids is str"),
        ([torch.full((1, 4), 97)], "token 97 but the model knows 97 tokens"),
        ([torch.zeros(1, 65).long()], "65 tokens but the model has 64 positions"),
    ],
)
def test_what_the_model_cannot_read_is_refused(gpt2, batch, message):
    with pytest.raises(UndenseError, match=message):
        checked(gpt2, batch)


def test_the_model_writes_its_own_text_reproducibly(gpt2):
    with torch.no_grad():
        first, again, other = (
            self_sampled(gpt2, sequences=4, length=12, seed=seed)[0] for seed in (0, 0, 1)
        )
    assert first.shape == (4, 12)
    assert (first[:, 0] == gpt2.config.bos_token_id).all()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_it_writes_by_its_own_probabilities(gpt2):
    wanted = 42

    def prefer(module, args, output):
        output.logits = torch.full_like(output.logits, -50.0)
        output.logits[..., wanted] = 50.0
        return output

    gpt2.register_forward_hook(prefer)
    with torch.no_grad():
        (text,) = self_sampled(gpt2, sequences=2, length=5)
    assert (text[:, 1:] == wanted).all()


def test_a_model_without_a_beginning_token_starts_at_random_ones(gpt2):
    gpt2.config.bos_token_id = None
    with torch.no_grad():
        (text,) = self_sampled(gpt2, sequences=8, length=2)
    assert len(text[:, 0].unique()) > 1


def test_a_model_without_a_head_cannot_write(gpt2):
    with pytest.raises(UndenseError, match="cannot write text"):
        self_sampled(GPT2Model(gpt2.config))


def test_a_model_that_predicts_nan_is_refused(gpt2):
    gpt2.transformer.wte.weight.data[0] = float("nan")
    with pytest.raises(UndenseError, match="predictions are NaN"), torch.no_grad():
        self_sampled(gpt2, sequences=2, length=4)
