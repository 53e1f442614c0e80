"""Encoders, encoders with a decoder, and vision models: heads, swaps by hand, and calibration."""

from __future__ import annotations

import copy

import hosts
import pytest
import torch
import transformers
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    PreTrainedConfig,
    T5EncoderModel,
)

from undense.convert import classes
from undense.convert.batches import checked
from undense.convert.configs import config_class
from undense.convert.convert import convert_, plan
from undense.convert.families import FAMILIES
from undense.convert.ffns import load_ffns_, save_ffns
from undense.convert.revert import revert_
from undense.convert.sites import find_components, find_sites
from undense.convert.statistics import collect
from undense.errors import UndenseError
from undense.ffn import NoFFN, SparseSpectral


def small(model, spec="narrow-50"):
    convert_(model, spec, calibration=hosts.calibration(model))
    return model


@pytest.mark.parametrize("host", hosts.HOSTS)
def test_the_view_computes_what_the_module_computes(host):
    model = hosts.tiny(host)
    sites = find_sites(model)
    assert len(sites) == (4 if model.config.is_encoder_decoder else 2)
    x = torch.randn(2, 7, hosts.DIM)
    for site in sites:
        torch.testing.assert_close(site.dense()(x), site.module(x), rtol=1e-5, atol=1e-5)
        assert site.dense().shape == site.shape
        assert site.parameters == sum(p.numel() for p in site.module.parameters())
        assert model.get_submodule(site.name) is site.entry
    assert all("Undense" not in type(m).__name__ for m in model.modules())


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_auto_class_that_knows_a_family_knows_it_converted(kind):
    known = [auto for auto in classes.auto_classes() if classes.stock_of(auto, kind) is not None]
    assert AutoModel in known and len(known) > 2
    for auto in known:
        stock = classes.stock_of(auto, kind)
        assert auto._model_mapping[config_class(FAMILIES[kind])].stock is stock


HEADS = {
    "bert": [
        AutoModelForMaskedLM,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        AutoModelForQuestionAnswering,
        transformers.AutoModelForMultipleChoice,
        transformers.AutoModelForNextSentencePrediction,
        transformers.AutoModelForPreTraining,
    ],
    "roberta": [AutoModelForMaskedLM, AutoModelForSequenceClassification],
    "t5": [
        AutoModelForSeq2SeqLM,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        AutoModelForQuestionAnswering,
    ],
    "bart": [
        AutoModelForSeq2SeqLM,
        AutoModelForSequenceClassification,
        AutoModelForQuestionAnswering,
    ],
    "vit": [AutoModelForImageClassification, transformers.AutoModelForMaskedImageModeling],
    "gptj": [AutoModelForSequenceClassification, AutoModelForQuestionAnswering],
    "phi3": [AutoModelForSequenceClassification, AutoModelForTokenClassification],
}


@pytest.mark.parametrize(("host", "auto"), [(h, a) for h, autos in HEADS.items() for a in autos])
def test_the_backbone_takes_every_head_and_keeps_its_ffns(host, auto, tmp_path):
    base = small(hosts.tiny(host, AutoModel))
    base.save_pretrained(tmp_path / "base")
    headed = auto.from_pretrained(tmp_path / "base")
    assert type(headed).__name__.startswith("Undense")
    assert len(find_components(headed)) == len(find_components(headed.base_model)) > 1
    theirs = {
        k.removeprefix(f"{headed.base_model_prefix}."): v for k, v in headed.state_dict().items()
    }
    ours = base.state_dict()
    seats = [key for key in ours if ".intermediate." in key or ".mlp." in key or ".fc1." in key]
    seats += [key for key in ours if "DenseReluDense" in key and key in theirs]
    assert seats and all(torch.equal(theirs[key], ours[key]) for key in seats)
    headed.save_pretrained(tmp_path / "headed")
    again = auto.from_pretrained(tmp_path / "headed")
    for key, value in headed.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    if auto is AutoModelForTokenClassification and host == "t5":  # it has no decoder to give back
        with pytest.raises(UndenseError, match=r"missing: decoder\.block"):
            AutoModel.from_pretrained(tmp_path / "headed")
        return
    back = AutoModel.from_pretrained(tmp_path / "headed")
    assert all(torch.equal(back.state_dict()[key], ours[key]) for key in seats)


def test_an_encoder_alone_leaves_the_decoders_ffns_out(tmp_path):
    whole = small(hosts.tiny("t5"))
    whole.save_pretrained(tmp_path / "whole")
    encoder = classes.model_class(T5EncoderModel).from_pretrained(tmp_path / "whole")
    assert [name.partition(".")[0] for name in find_components(encoder)] == ["encoder"] * 2
    ids = hosts.inputs(whole)["input_ids"]
    wanted = whole.get_encoder()(input_ids=ids).last_hidden_state
    assert torch.equal(encoder(input_ids=ids).last_hidden_state, wanted)
    encoder.save_pretrained(tmp_path / "encoder")
    assert (
        len(
            classes.model_class(T5EncoderModel)
            .from_pretrained(tmp_path / "encoder")
            .config.undense["ffns"]
        )
        == 2
    )
    with pytest.raises(UndenseError, match=r"missing: decoder\.block"):
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "encoder")


def test_a_decoder_alone_is_converted_and_writes_its_own_calibration(tmp_path):
    model = hosts.tiny("bart", AutoModelForCausalLM)
    told = convert_(model, "narrow-50")
    assert told.calibration == "self-sampled" and len(told.sites) == 2
    model.save_pretrained(tmp_path)
    batch = {"input_ids": hosts.inputs(model)["input_ids"]}
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(hosts.outputs(again, batch), hosts.outputs(model, batch))


def test_what_the_host_does_around_an_ffn_stays():
    """BERT: y = LayerNorm(x + FFN(x)), so without an FFN y = LayerNorm(x)."""
    model = small(hosts.tiny("bert"), "none")
    layer = model.bert.encoder.layer[0]
    x = torch.randn(2, 5, hosts.DIM)
    wanted = layer.output.LayerNorm(x)
    torch.testing.assert_close(layer.feed_forward_chunk(x), wanted)


def test_dropout_inside_an_ffn_goes_with_it_and_comes_back():
    model = hosts.tiny("bart")
    assert model.model.encoder.layers[0].activation_dropout == 0.1
    small(model)
    assert model.model.encoder.layers[0].activation_dropout == 0.0
    revert_(model)
    assert model.model.encoder.layers[0].activation_dropout == 0.1


@pytest.mark.parametrize("host", ["bert", "bart", "t5", "vit"])
def test_ffns_alone_make_the_dense_model_the_converted_one(host, tmp_path):
    dense = hosts.tiny(host)
    model = small(copy.deepcopy(dense))
    save_ffns(model, tmp_path / "ffns")
    load_ffns_(dense, tmp_path / "ffns")
    batch = hosts.inputs(model)
    assert torch.equal(hosts.outputs(dense, batch), hosts.outputs(model, batch))


def component():
    return SparseSpectral(hosts.DIM, SparseSpectral.Config(k_freq=3))


def test_a_swap_by_hand_in_bert_is_adopted(tmp_path):
    model = hosts.tiny("bert")
    for layer in model.bert.encoder.layer:
        layer.intermediate, layer.output.dense = component(), nn.Identity()
    model.eval().save_pretrained(tmp_path)
    batch = hosts.inputs(model)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(hosts.outputs(again, batch), hosts.outputs(model, batch))


def test_half_a_swap_by_hand_is_refused_with_the_remedy(tmp_path):
    model = hosts.tiny("bert")
    model.bert.encoder.layer[0].intermediate = NoFFN(hosts.DIM, NoFFN.Config())
    with pytest.raises(UndenseError, match=r"output\.dense is still a Linear; put torch"):
        model.save_pretrained(tmp_path / "out")
    model = hosts.tiny("bart")
    layer = model.model.encoder.layers[0]
    layer.fc1, layer.activation_fn, layer.fc2 = component(), nn.Identity(), nn.Identity()
    with pytest.raises(UndenseError, match=r"activation_dropout is 0\.1; set it to 0"):
        model.save_pretrained(tmp_path / "out")


@pytest.mark.parametrize("host", ["bert", "t5", "bart", "vit"])
def test_models_that_cannot_write_need_batches_and_are_told_which(host):
    model = hosts.tiny(host)
    key = "pixel_values" if host == "vit" else "input_ids"
    with pytest.raises(UndenseError, match=f"cannot write text to calibrate on.*{key}"):
        convert_(model, "narrow-50")
    assert not find_components(model)


IDS = torch.zeros(1, 4).long()
REFUSED = {
    "no target": ("t5", {"input_ids": IDS}, "needs 'decoder_input_ids' or 'labels'"),
    "a target of another tokenizer": (
        "t5",
        {"input_ids": IDS, "decoder_input_ids": IDS + 97},
        "token 97",
    ),
    "text for an image": ("vit", {"input_ids": IDS}, "needs the key 'pixel_values'"),
    "bytes": ("vit", torch.zeros(1, 3, 8, 8).byte(), "floating-point pixel_values"),
    "an image of another size": ("vit", torch.zeros(1, 3, 9, 8), r"takes \(rows, 3, 8, 8\)"),
    "more tokens than positions": ("roberta", torch.zeros(1, 63).long(), "has 62 positions"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_batches_that_do_not_fit_are_refused(case):
    host, batch, message = REFUSED[case]
    with pytest.raises(UndenseError, match=message):
        checked(hosts.tiny(host), batch)


def test_labels_are_shifted_into_what_the_decoder_reads():
    model = hosts.tiny("t5")
    labels = torch.tensor([[5, 6, 7, -100]])
    (batch,) = checked(model, {"input_ids": IDS, "labels": labels})
    wanted = model.prepare_decoder_input_ids_from_labels(labels.clone())
    assert torch.equal(batch["decoder_input_ids"], wanted)


def test_encoder_and_decoder_see_the_tokens_of_their_own_side_padding_left_out():
    model = hosts.tiny("bart")
    batch = hosts.inputs(model, rows=8, tokens=20)  # and 16 target tokens
    mask = torch.ones(8, 20).long()
    mask[:, 12:] = 0
    sites = find_sites(model)
    found = collect(model, sites, batch | {"attention_mask": mask})
    rows = {site.key.partition(".")[0]: len(found[site.name].inputs) for site in sites}
    assert rows == {"encoder": 8 * 12, "decoder": 8 * 16}


def test_a_vision_models_tokens_are_its_patches():
    model = hosts.tiny("vit")
    sites = find_sites(model)
    found = collect(model, sites, hosts.inputs(model, rows=8))
    assert all(len(found[site.name].inputs) == 8 * 17 for site in sites)


def test_an_ffn_that_is_fed_in_chunks_is_refused():
    model = hosts.tiny("bert")
    for layer in model.bert.encoder.layer:
        layer.chunk_size_feed_forward = 4
    with pytest.raises(UndenseError, match="chunk_size_feed_forward"):
        convert_(model, "none", calibration=hosts.calibration(model))


@pytest.mark.parametrize("host", ["bert", "t5", "vit", "phi3"])
def test_a_plan_from_the_config_agrees_with_the_conversion(host):
    model = hosts.tiny(host)
    planned = plan(model.config, "narrow-50")
    done = convert_(model, "narrow-50", calibration=hosts.calibration(model))
    assert planned.flops_after == done.flops_after
    assert planned.model_parameters_after == model.num_parameters()


class Adapter(nn.Linear):
    pass


def test_wrapped_and_missing_projections_are_named():
    bert, bart, phi = (hosts.tiny(host) for host in ("bert", "bart", "phi3"))
    bert.bert.encoder.layer[1].output.dense = Adapter(96, 48)
    with pytest.raises(UndenseError, match=r"layer\.1\.output\.dense is a Adapter, not a plain"):
        find_sites(bert)
    bart.model.decoder.layers[0].fc1 = Adapter(48, 120)
    with pytest.raises(UndenseError, match=r"decoder\.layers\.0\.fc1 is a Adapter"):
        find_sites(bart)
    phi.model.layers[0].mlp.gate_up_proj = Adapter(48, 192, bias=False)
    with pytest.raises(UndenseError, match=r"mlp\.gate_up_proj is a Adapter"):
        find_sites(phi)
    bert = hosts.tiny("bert")
    bert.bert.encoder.layer[0].intermediate = nn.Sequential(nn.Linear(48, 96))
    with pytest.raises(UndenseError, match=r"intermediate\.dense is not there"):
        find_sites(bert)


@pytest.mark.parametrize(("kind", "nearest"), [("gemma4", "gemma"), ("bert2", "bert")])
def test_an_unknown_family_names_the_nearest(kind, nearest):
    config = PreTrainedConfig()
    config.model_type = kind
    with pytest.raises(UndenseError, match=f"Nearest: {nearest}"):
        plan(config, "narrow-50")


def test_a_bert_that_reads_one_way_only_writes_its_own_text():
    config = BertConfig(**hosts.config_of("bert").to_diff_dict() | {"is_decoder": True})
    model = AutoModelForCausalLM.from_config(config).eval()
    assert convert_(model, "narrow-50").calibration == "self-sampled"
