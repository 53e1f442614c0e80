"""The speed commands' work: what is measured is kept, arms share all but FFNs, verdicts follow."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from undense.contract import FFNComponent
from undense.convert.sites import find_components
from undense.errors import UndenseError
from undense.measure.ffn_bench import Bench
from undense.measure.timing import Timing
from undense.pipeline import model_bench
from undense.pipeline.bench_settings import (
    CeilingSettings,
    FFNBenchSettings,
    ModelBenchSettings,
)
from undense.pipeline.ceiling import ceiling, verdict, whole
from undense.pipeline.ffn_bench import bench_ffn, cells_of
from undense.pipeline.model_arms import dense_model, timed_config, with_ffn
from undense.pipeline.model_bench import bench_model, bounded
from undense.pipeline.model_memory import MemoryTask, peak_memory
from undense.pipeline.workloads import Batch


def timing(*samples: float) -> Timing:
    return Timing(samples_ms=samples, calls_per_sample=1, threads=1)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The config of a GPT-2 of three layers, with dropout and its slow activation."""
    folder = tmp_path_factory.mktemp("gpt2")
    GPT2Config(
        vocab_size=90,
        n_positions=40,
        n_embd=32,
        n_layer=3,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("llama")
    LlamaConfig(
        vocab_size=90,
        max_position_embeddings=40,
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
    ).save_pretrained(folder)
    return str(folder)


def settings(**changes: Any) -> FFNBenchSettings:
    values: dict[str, Any] = {"arms": ("narrow-25",), "widths": (32,), "tokens": (1, 3)}
    values |= {"rounds": 2, "rotate_mb": 0.05, "threads": 1, "dtypes": ("fp32",)}
    return FFNBenchSettings(**(values | changes))


def test_an_interrupted_measurement_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Bench.measured
    seen = []

    def measured(self: Bench, cell: Any) -> dict[str, Any]:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(cell)
        return right(self, cell)

    monkeypatch.setattr(Bench, "measured", measured)
    with pytest.raises(KeyboardInterrupt):
        bench_ffn(settings(), tmp_path)
    assert len(cells_of(settings())) == 8
    monkeypatch.setattr(Bench, "measured", right)
    kept = {path.name: path.read_text() for path in (tmp_path / "cells").iterdir()}
    assert len(kept) == 3
    result = bench_ffn(settings(), tmp_path)
    assert result["ok"]
    assert len(result["cells"]) == 8
    for name, text in kept.items():
        assert (tmp_path / "cells" / name).read_text() == text
    monkeypatch.setattr(Bench, "measured", None)  # nothing is measured a second time
    again = bench_ffn(settings(), tmp_path)
    assert again["cells"] == json.loads(json.dumps(result["cells"]))
    with pytest.raises(TypeError):
        bench_ffn(settings(seed=1), tmp_path)
    written = json.loads(Path(result["files"][0]).read_text())
    assert written["environment"]["cpu"]
    assert written["created"] in result["files"][0]
    assert [Path(path).suffix for path in result["files"]] == [".json", ".png", ".png"]


def test_arms_share_everything_but_their_ffns(gpt2: str) -> None:
    config: Any = timed_config(gpt2)
    assert config.activation_function == "gelu_pytorch_tanh"
    assert config.resid_pdrop == config.attn_pdrop == config.embd_pdrop == 0
    dense = dense_model(config, torch.float32, 0)
    names = {name for name, _ in dense.named_parameters()}
    arm = with_ffn(dense, "narrow-25", 0)
    components = find_components(arm)
    assert len(components) == 3
    shared = dict(dense.named_parameters())
    for name, parameter in arm.named_parameters():
        assert (parameter is shared.get(name)) == (".mlp." not in name), name
    assert not any(isinstance(module, FFNComponent) for module in dense.modules())
    assert names == set(shared)


@pytest.mark.parametrize("host", ["gpt2", "llama"])
def test_whole_models_are_measured_and_kept(
    host: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ModelBenchSettings(
        models=(request.getfixturevalue(host),),
        arms=("narrow-50",),
        tokens=12,
        new=3,
        rounds=2,
        memory=False,
        threads=1,
    )
    result = bench_model(asked, tmp_path)
    assert [cell["workload"] for cell in result["cells"]] == ["prefill", "decode", "training"]
    for cell in result["cells"]:
        assert set(cell["arms"]) == {"dense", "narrow-50", "none"}
        assert all(arm["median_ms"] > 0 for arm in cell["arms"].values())
        assert cell["batches_hash"] == result["cells"][0]["batches_hash"]
    monkeypatch.setattr(model_bench, "_cell", None)  # nothing is measured a second time
    assert bench_model(asked, tmp_path)["cells"] == result["cells"]


def test_decoding_leaves_the_cache_as_it_was_and_agrees_with_the_whole_sequence(gpt2: str) -> None:
    config = timed_config(gpt2)
    model: Any = dense_model(config, torch.float32, 0)
    batch = Batch.drawn(config, batch=2, tokens=10, new=4, seed=0)
    call: Any = batch.call("decode", model)
    first, second = call(), call()
    assert torch.equal(first, second)
    with torch.no_grad():
        whole_sequence = model(input_ids=batch.ids).logits[:, -1]
    assert torch.allclose(first[:, -1], whole_sequence, atol=1e-5)
    with pytest.raises(UndenseError, match="exceed the 40 positions"):
        Batch.drawn(config, batch=1, tokens=38, new=4, seed=0)


def test_the_bound_follows_from_the_time_without_ffns() -> None:
    arms = {
        "dense": {"status": "measured"},
        "quarter": {"status": "measured", "ffn_flops_share": 0.25},
        "none": {"status": "measured", "ffn_flops_share": 0.0},
        "wrong": {"status": "wrong", "ffn_flops_share": 0.1},
    }
    times = {"dense": timing(10, 10), "quarter": timing(8, 8), "none": timing(4, 4)}
    result = bounded(arms, times)
    assert result["ffn_time_share"] == pytest.approx(0.6)
    assert result["ceiling"] == pytest.approx(2.5)
    quarter = result["arms"]["quarter"]
    assert quarter["speedup"] == 1.25
    assert quarter["bound"] == pytest.approx(1 / 0.55)
    assert quarter["realised"] == pytest.approx(1.25 * 0.55)
    assert "speedup" not in result["arms"]["wrong"]


def test_peak_memory_is_of_one_arm_alone(gpt2: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ballast = torch.ones(200_000_000)  # 800 MB that a child must not be charged with
    task = MemoryTask(
        model=gpt2,
        arm="narrow-25",
        dtype="fp32",
        workload="training",
        tokens=8,
        new=0,
        batch=1,
        threads=1,
        seed=0,
    )
    found = peak_memory(task)
    assert found["weights_mb"] < 1
    assert 50 < found["resident_mb"] <= found["peak_mb"] < ballast.nbytes / 1e6
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(UndenseError, match=r"narrow-25 \(training\) failed"):
        peak_memory(task)


def test_the_whole_is_its_blocks_and_its_head() -> None:
    times = {
        "dense": timing(10, 10),
        "none": timing(4, 4),
        "fast": timing(5, 5),
        "narrow-25": timing(4.5, 4.5),
        "head": timing(3, 3),
    }
    figures = whole(times, dict.fromkeys(times, 2.0) | {"head": 4.0})
    assert figures["milliseconds"] == 32
    assert figures["ffn_time_share"] == pytest.approx(12 / 32)
    assert figures["ceiling"] == pytest.approx(32 / 20)
    assert figures["arms"]["fast"]["speedup"] == pytest.approx(32 / 22)
    assert figures["arms"]["fast"]["ffn_speedup"] == pytest.approx(6)
    assert verdict(figures, 1.1) == {"verdict": "go", "best": "fast"}
    assert verdict(figures, 1.5) == {"verdict": "no-go", "best": "fast"}


def test_an_estimate_needs_the_config_alone(llama: str) -> None:
    asked = CeilingSettings(
        model=llama,
        arms=("narrow-25", "ultra-1"),
        tokens=(1, 4, 400),
        past=3,
        seconds=0.1,
        threads=1,
    )
    result = ceiling(asked)
    assert set(result["tokens"]) == {"1", "4"}
    assert set(result["left_out"]) == {"ultra-1", "400 tokens"}
    for figures in result["tokens"].values():
        assert set(figures["arms"]) == {"narrow-25"}
        assert figures["verdict"] == "no-go"  # a narrow FFN is the baseline, no replacement
        assert 0 <= figures["ffn_time_share"] < 1
