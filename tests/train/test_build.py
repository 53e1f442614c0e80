import pytest
import torch

from undense.train.build import build_model
from undense.train.recipe import PretrainRecipe
from undense.train.tokens import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a little text"], vocab_size=300)


@pytest.mark.parametrize("host", ["gpt2", "llama"])
def test_a_recipe_becomes_a_causal_model_of_its_size(tokenizer, host):
    recipe = PretrainRecipe(host=host, hidden_size=24, layers=3, heads=2, context=12)
    model = build_model(recipe, tokenizer)
    assert model.config.num_hidden_layers == 3
    assert model.config.hidden_size == 24
    # The tokenizer has the last word: a small corpus does not fill the vocabulary asked for.
    assert model.config.vocab_size == len(tokenizer) < recipe.vocab_size
    ids = torch.randint(0, len(tokenizer), (2, 12))
    other = ids.clone()
    other[:, 6:] = 0
    with torch.no_grad():
        full, changed = model(input_ids=ids).logits, model(input_ids=other).logits
    assert full.shape == (2, 12, len(tokenizer))
    torch.testing.assert_close(full[:, :6], changed[:, :6])


@pytest.mark.parametrize("host", ["gpt2", "llama"])
def test_the_loss_is_known_to_be_shifted(tokenizer, host):
    model = build_model(PretrainRecipe(host=host, context=12), tokenizer)
    assert model.loss_type == "ForCausalLM"


@pytest.mark.parametrize(("host", "width"), [("gpt2", 4 * 192), ("llama", 512)])
def test_the_ffn_is_as_wide_as_the_host_usually_makes_it(tokenizer, host, width):
    shapes = [
        tuple(parameter.shape)
        for name, parameter in build_model(PretrainRecipe(host=host), tokenizer).named_parameters()
        if "mlp" in name and parameter.ndim == 2
    ]
    assert all(sorted(shape) == [192, width] for shape in shapes)
    narrow = build_model(PretrainRecipe(host=host, intermediate=32), tokenizer)
    assert any(32 in parameter.shape for parameter in narrow.parameters())
