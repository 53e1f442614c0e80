import pytest
import torch

from undense.convert.swap import install, put
from undense.errors import UndenseError
from undense.ffn import NoFFN


def test_put_returns_what_stood_there(gpt2, prompt):
    wanted = gpt2(prompt).logits
    dense = put(gpt2, "transformer.h.0.mlp", NoFFN(48, NoFFN.Config()))
    assert isinstance(gpt2.transformer.h[0].mlp, NoFFN)
    assert not torch.equal(gpt2(prompt).logits, wanted)
    put(gpt2, "transformer.h.0.mlp", dense)
    assert torch.equal(gpt2(prompt).logits, wanted)


def test_installed_components_have_the_width_of_the_site(llama):
    install(llama, {"layers.1.mlp": {"component": "dense", "hidden": 5}})
    assert llama.model.layers[1].mlp.up.weight.shape == (1, 5, 48)


@pytest.mark.parametrize("key", ["layers.2.mlp", "layers.0.self_attn", "model.layers.0.mlp"])
def test_a_place_without_a_dense_ffn_is_refused(llama, key):
    with pytest.raises(UndenseError, match=r"it has layers\.0\.mlp, layers\.1\.mlp"):
        install(llama, {key: {"component": "none"}})
