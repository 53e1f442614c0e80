"""The live view: exact FLOPs of what really ran, frozen tags, and what TensorBoard reads back."""

from __future__ import annotations

import json
from bisect import bisect_left
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import (
    AutoModel,
    BartConfig,
    BertConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedConfig,
    PreTrainedModel,
    T5Config,
)

from undense.contract import build, config_from_dict
from undense.convert.convert import convert_
from undense.errors import UndenseError
from undense.measure.flops import count_flops
from undense.measure.live import TAG, Block, Meter, kept
from undense.pipeline.live import Live, LiveCallback, blocks_of
from undense.train.finetune import finetune
from undense.train.settings import FinetuneSettings
from undense.train.tokens import BlockDataset

IDS = torch.arange(32).view(2, 16) % 50


def model(ffn: str | None = None) -> PreTrainedModel:
    torch.manual_seed(0)
    # one kernel, as the dense component has it: "gelu_new" goes back by other operations
    config = GPT2Config(
        vocab_size=50,
        n_positions=16,
        n_embd=32,
        n_layer=2,
        n_head=2,
        activation_function="gelu_pytorch_tanh",
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0.0,
    )
    host = GPT2LMHeadModel(config)
    host.loss_type = "ForCausalLM"
    if ffn is not None:
        convert_(host, ffn, calibration=IDS.repeat(4, 1), keep_dense=False)
    return host.train()


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    found.Reload()
    return found


@pytest.mark.parametrize("ffn", [None, "ultra-all-60"])
def test_a_reading_is_what_the_counter_dispatched(ffn: str | None) -> None:
    host = model(ffn)
    meter = Meter(blocks_of(host))
    count = count_flops(lambda: host(input_ids=IDS, labels=IDS), model=host, backward=True)
    reading = meter.take(1)
    for layer, work in reading.blocks.items():
        part = count.tree.part(f"transformer.h.{layer}.mlp")
        # a whole call of the block, its dropout left out
        dropped = sum(p.flops for p in part.parts if p.name == "dropout")
        assert work.total == part.forward + part.backward - dropped
        assert sum(work.stages.values()) <= work.total
    assert reading.tokens == IDS.numel()
    assert (reading.total < reading.dense) == (ffn is not None)


SIZES = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
OTHERS: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(
        **SIZES,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
    ),
    "t5": T5Config(**SIZES, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2),
    "bart": BartConfig(
        **SIZES,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=48,
        max_position_embeddings=32,
        forced_eos_token_id=None,
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_encoders_and_decoders_are_blocks_one_after_the_other(name: str) -> None:
    """As many as there are FFNs, each with the rows of its own tower, dense and replaced."""
    host = AutoModel.from_config(OTHERS[name]).train()
    batch = {"input_ids": IDS}
    if host.config.is_encoder_decoder:
        batch["decoder_input_ids"] = IDS[:, :5]
    widths = {"bert": [64, 64], "t5": [64] * 4, "bart": [64, 48, 48]}[name]
    encoders = {"bert": 2, "t5": 2, "bart": 1}[name]
    rows = [32 if block < encoders else 10 for block in range(len(widths))]
    for spec in (None, "low_rank-25"):
        if spec is not None:
            convert_(host, spec, calibration=[batch] * 8, keep_dense=False)
        meter = Meter(blocks_of(host))
        count = count_flops(lambda: host(**batch), model=host, backward=True)
        reading = meter.take(1)
        meter.close()
        assert list(reading.blocks) == [*range(len(widths))]
        for work, width, seen in zip(reading.blocks.values(), widths, rows, strict=True):
            products = 6 * 2 * seen * 32 * width  # two of them, forward and twice backward
            assert products < work.dense < 1.2 * products
        if spec is None:
            assert reading.total == reading.dense
        else:
            ours = count.components
            assert reading.total == sum(p.analytic_forward + p.analytic_backward for p in ours)


def test_evaluation_is_not_counted_and_hooks_go_away() -> None:
    host = model()
    meter = Meter(blocks_of(host))
    host.eval()
    with torch.no_grad():
        host(input_ids=IDS)
    assert meter.take(1).total == 0
    meter.close()
    host.train()(input_ids=IDS)
    assert meter.take(1).total == 0


def test_tensorboard_reads_back_the_frozen_tags(tmp_path: Path) -> None:
    folders = {"dense": model(), "ultra": model("ultra-all-60")}
    for name, host in folders.items():
        with Live(host, tmp_path / name, every=2) as live:
            for step in range(1, 6):
                host(input_ids=IDS, labels=IDS).loss.backward()
                live.step(step)
    dense, ultra = (events(tmp_path / name) for name in folders)
    tags = set(ultra.Tags()["scalars"])
    assert all(TAG.fullmatch(tag) for tag in tags)
    assert {f"FLOPs/block_1_{s}" for s in ("spectral", "polynomial", "micro", "projection")} < tags
    shared = {t for t in dense.Tags()["scalars"] if t.startswith("FLOPs/")}
    assert "FLOPs/block_1_total" in shared
    assert shared < tags
    assert {"gates/block_0_micro", "speed/tokens_per_s", "memory/peak_mb"} < tags
    assert "kept/block_0_spectral_frequencies" in ultra.Tags()["histograms"]
    lines = [
        json.loads(line) for line in (tmp_path / "ultra/metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [2, 4]
    for line, event in zip(lines, ultra.Scalars("FLOPs/total"), strict=True):
        assert isinstance(line["flops"], int)
        assert event.step == line["step"]
        assert event.value == pytest.approx(line["flops"] / line["steps"] / 1e9, rel=1e-6)
    saving = 1 - lines[0]["flops"] / lines[0]["dense_equivalent"]
    assert ultra.Scalars("FLOPs/saving")[0].value == pytest.approx(saving, rel=1e-6)
    assert dense.Scalars("FLOPs/saving")[0].value == 0


def test_a_histogram_holds_the_frequencies_that_survive(tmp_path: Path) -> None:
    host = model("ultra-all-60")
    with Live(host, tmp_path, every=1) as live:
        host(input_ids=IDS, labels=IDS).loss.backward()
        live.step(1)
    (event,) = events(tmp_path).Histograms("kept/block_0_spectral_frequencies")
    frequencies = host.get_submodule("transformer.h.0.mlp.stages.spectral").frequencies
    assert event.histogram_value.num == len(frequencies)
    assert event.histogram_value.max == frequencies.max()
    # an index stands in the bin that is around it
    edges = event.histogram_value.bucket_limit
    for index in frequencies.tolist():
        place = bisect_left(edges, index)
        assert event.histogram_value.bucket[place] >= 1
        assert edges[place] - index == 0.5


def test_the_trainer_takes_the_callback(tmp_path: Path) -> None:
    host = model("ultra-all-60")
    dataset = BlockDataset(torch.arange(160, dtype=torch.int32) % 50, 16)
    settings = FinetuneSettings(steps=3, batch=2)
    view = LiveCallback(tmp_path / "live", every=1)
    finetune(host, dataset, settings, tmp_path / "work", callbacks=[view])
    assert [e.step for e in events(tmp_path / "live").Scalars("FLOPs/total")] == [1, 2, 3]


def test_an_impossible_interval_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UndenseError, match="every=0"):
        Live(model(), tmp_path, every=0)


@pytest.mark.parametrize("name", ["polynomial_learned", "spectral_learned"])
def test_what_is_learned_to_be_kept_is_read_as_it_is_now(name: str) -> None:
    module = build(33, config_from_dict({"component": name}))
    block = Block(
        layer=4, module=module, cost=lambda tokens: module.cost(tokens), dense=module.cost
    )
    tag = f"kept/block_4_{name}_selection"
    before = kept(block)[tag]
    assert TAG.fullmatch(tag) and before.numel() == module.selection.kept().numel()
    module.selection.score.data.mul_(-1)
    assert not torch.equal(kept(block)[tag], before)
