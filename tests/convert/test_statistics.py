import pytest
import torch

from undense.convert.sites import find_sites
from undense.convert.statistics import collect
from undense.errors import UndenseError


def seen_by(model, site, batch):
    """Every input row of a site, by a hook of the test's own."""
    rows = []
    handle = site.module.register_forward_pre_hook(lambda _, args: rows.append(args[0]))
    with torch.no_grad():
        model(**batch)
    handle.remove()
    return rows[0].flatten(0, -2)


def test_every_row_of_a_small_text_is_collected_in_order(gpt2, text):
    sites = find_sites(gpt2)
    found = collect(gpt2, sites, [text[:8], text[8:]])
    for site in sites:
        torch.testing.assert_close(
            found[site.name].inputs, seen_by(gpt2, site, {"input_ids": text}), rtol=1e-5, atol=1e-5
        )


def test_a_sample_is_of_the_size_asked_and_the_same_rows_at_every_site(llama, text):
    sites = find_sites(llama)
    whole = collect(llama, sites, text)
    some = collect(llama, sites, text, rows=100, seed=3)
    chosen = []
    for site in sites:
        rows = some[site.name].inputs
        assert rows.shape == (100, 48)
        chosen.append(torch.cdist(rows, whole[site.name].inputs).argmin(1))
    assert torch.equal(*chosen)
    assert len(chosen[0].unique()) == 100
    assert torch.equal(
        some[sites[0].name].inputs,
        collect(llama, sites, text, rows=100, seed=3)[sites[0].name].inputs,
    )


def test_padding_is_never_drawn(gpt2, text):
    mask = torch.ones_like(text)
    mask[:, 10:] = 0
    sites = find_sites(gpt2)
    padded = collect(gpt2, sites, {"input_ids": text, "attention_mask": mask})
    alone = collect(gpt2, sites, text[:, :10])
    torch.testing.assert_close(
        padded[sites[0].name].inputs, alone[sites[0].name].inputs, rtol=1e-5, atol=1e-5
    )


def test_the_sample_is_fp32_and_the_model_is_left_as_it_was(gpt2, text):
    gpt2.to(torch.bfloat16).train()
    gpt2.transformer.h[0].attn.eval()
    sites = find_sites(gpt2)
    found = collect(gpt2, sites, text)
    assert found[sites[0].name].inputs.dtype == torch.float32
    again = collect(gpt2, sites, text)  # dropout was off, so nothing differs
    assert torch.equal(found[sites[0].name].inputs, again[sites[0].name].inputs)
    assert gpt2.training and not gpt2.transformer.h[0].attn.training
    assert not sites[0].module._forward_pre_hooks


def test_too_little_text_is_refused(gpt2, text):
    with pytest.raises(UndenseError, match="holds 32 tokens; give at least 64"):
        collect(gpt2, find_sites(gpt2), text[:1])


def test_inputs_that_are_not_finite_are_refused_by_site(gpt2, text):
    gpt2.transformer.h[0].attn.c_proj.bias.data[0] = float("nan")
    with pytest.raises(UndenseError, match=r"transformer\.h\.0\.mlp: its inputs"):
        collect(gpt2, find_sites(gpt2), text)
