import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Model

from undense.convert.convert import convert_
from undense.convert.sites import find_components, find_sites
from undense.errors import UndenseError

EVERY = ["gpt2", "llama", "mistral", "qwen2", "qwen3"]


@pytest.mark.parametrize("family", EVERY)
def test_the_view_computes_what_the_module_computes(make, family):
    model = make(family)
    sites = find_sites(model)
    assert [site.layer for site in sites] == [0, 1]
    x = torch.randn(7, 48)
    for site in sites:
        view = site.dense()
        torch.testing.assert_close(view(x), site.module(x), rtol=1e-5, atol=1e-5)
        assert view.shape == site.shape
        assert site.parameters == sum(p.numel() for p in site.module.parameters())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_biases_are_seen_where_there_are_any(make, family):
    shape = find_sites(make(family))[0].shape
    assert shape.bias == (family == "gpt2")
    assert shape.gated == (family == "llama")
    assert (shape.dim, shape.hidden) == (48, 192 if family == "gpt2" else 96)


def test_llama_with_mlp_biases(llama):
    config = llama.config
    config.mlp_bias = True
    model = type(llama)(config)
    for site in find_sites(model):
        for projection in (site.module.up_proj, site.module.gate_proj, site.module.down_proj):
            nn.init.normal_(projection.bias)
        x = torch.randn(5, 48)
        torch.testing.assert_close(site.dense()(x), site.module(x), rtol=1e-5, atol=1e-5)
        assert site.shape.bias


def test_the_key_of_a_site_is_the_same_with_and_without_a_head(gpt2):
    base = gpt2.base_model
    assert isinstance(base, GPT2Model)
    assert [site.name for site in find_sites(gpt2)] == [
        "transformer.h.0.mlp",
        "transformer.h.1.mlp",
    ]
    assert [site.name for site in find_sites(base)] == ["h.0.mlp", "h.1.mlp"]
    assert [site.key for site in find_sites(gpt2)] == [site.key for site in find_sites(base)]


def test_sites_are_found_without_memory(gpt2):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(gpt2.config)
    sites = find_sites(model)
    assert [site.shape for site in sites] == [site.shape for site in find_sites(gpt2)]
    assert all(site.on_meta for site in sites)
    assert sites[0].dense().up.is_meta


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(gpt2, value):
    gpt2.transformer.h[1].mlp.c_proj.bias.data[3] = value
    with pytest.raises(UndenseError, match=r"transformer\.h\.1\.mlp\.c_proj\.bias holds NaN"):
        find_sites(gpt2)[1].dense()


def test_a_wrapped_projection_is_refused_by_name(llama):
    class Adapter(nn.Linear):
        pass

    llama.model.layers[0].mlp.up_proj = Adapter(48, 96, bias=False)
    with pytest.raises(UndenseError, match=r"layers\.0\.mlp\.up_proj is a Adapter.*merge adapters"):
        find_sites(llama)


def test_an_activation_that_is_not_known_is_refused(gpt2):
    gpt2.config.activation_function = "quick_gelu"
    with pytest.raises(UndenseError, match="quick_gelu"):
        find_sites(gpt2)


def test_components_are_found_once_composites_whole(gpt2, text):
    convert_(gpt2, "ultra-25", targets="0", calibration=text)
    assert list(find_components(gpt2)) == ["transformer.h.0.mlp"]
    assert [site.layer for site in find_sites(gpt2)] == [1]
