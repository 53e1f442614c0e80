import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from undense.train.heldout import heldout_loss
from undense.train.tokens import BlockDataset


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=50,
        n_positions=8,
        n_embd=16,
        n_layer=1,
        n_head=2,
        initializer_range=1.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def dataset() -> BlockDataset:
    return BlockDataset(torch.randint(0, 50, (7 * 8,)), 8)


def test_the_loss_is_the_mean_surprise_at_each_token_but_the_first(model, dataset):
    surprises = []
    for block in dataset.blocks.tolist():
        for t in range(1, 8):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([block[:t]])).logits[0, -1].double()
            surprises.append(-logits.log_softmax(0)[block[t]].item())
    # float32 logits on the one side, the same in shorter prefixes on the other.
    assert heldout_loss(model, dataset) == pytest.approx(sum(surprises) / 49, rel=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_the_batch_size_does_not_show(model, dataset, batch):
    assert heldout_loss(model, dataset, batch=batch) == pytest.approx(
        heldout_loss(model, dataset, batch=7), rel=1e-6
    )


def test_dropout_is_off_while_measuring_and_the_mode_comes_back(model, dataset):
    expected = heldout_loss(model, dataset)
    model.train()
    try:
        assert heldout_loss(model, dataset) == expected
        assert model.training
    finally:
        model.eval()
