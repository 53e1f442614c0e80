"""Every verb does its work, tells it as one JSON object, and writes nothing when dry."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from commands import Command, Place

from undense.cli import main
from undense.contract import components
from undense.ffn.presets import PRESETS
from undense.kernels.library import kernels
from undense.measure import formulas
from undense.measure.kernel_paths import OPERATIONS
from undense.pipeline.claims import CLAIMS
from undense.train.recipe import PretrainRecipe
from undense_command import VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_printed_and_is_no_error(undense: Command, verb: str) -> None:
    outcome = undense(*verb.split(), "--help")
    assert outcome.code == 0
    assert outcome.err == ""
    for option in ("--json", "--debug", "--seed", "--output-dir"):
        assert option in outcome.out, option


def test_ls_knows_every_component_and_preset(undense: Command) -> None:
    result = undense("ls", "--json").result
    assert [entry["name"] for entry in result["components"]] == list(components())
    assert [entry["name"] for entry in result["presets"]] == list(PRESETS)
    sizes = {entry["name"]: entry["size"] for entry in result["components"]}
    assert sizes["spectral"] == "k_freq"
    assert sizes["ultra"] == "projection.hidden"
    assert sizes["none"] is None
    assert all(entry["about"] for entry in result["components"] + result["presets"])
    shown = undense("ls").out
    assert all(name in shown for name in (*components(), *PRESETS))


def test_flops_stand_beside_macs_dense_beside_replaced(undense: Command, dense: Path) -> None:
    words = ("flops", dense, "--ffn", "low_rank-25", "--tokens", "16")
    result = undense(*words, "--json").result
    before, after = (result["dense"], result["replaced"])
    assert before["macs"] < before["flops"]
    (kind,) = result["trees"]
    saved = kind["dense"]["forward"] - kind["replaced"]["forward"]
    assert len(kind["ffns"]) == 2
    assert before["flops"] - after["flops"] == 16 * 2 * saved
    assert kind["replaced"]["forward"] <= 0.25 * kind["dense"]["forward"]
    shown = undense(*words).out
    assert f"{before['flops_per_token']:,.0f}" in shown
    assert "MACs" in shown


def test_flops_of_a_config_without_weights(undense: Command, place: Place) -> None:
    (place.here / "config.json").write_text((place.dense / "config.json").read_text())
    result = undense("flops", place.here, "--strict", "--json").result
    assert result["replaced"] is None
    assert result["dense"]["uncounted"] == {}


def test_flops_of_a_model_that_nobody_has_downloaded(undense: Command) -> None:
    result = undense("flops", "example:llama-7b", "--tokens", "8", "--past", "5", "--json").result
    estimate = result["dense"]["estimate"]
    assert estimate["parameters"] == estimate["parameters_by_formula"] == 6_738_415_616
    works = estimate["workloads"]
    assert set(works) == {"prefill", "decode", "training"}
    assert all(work["agree"] for work in works.values())
    assert estimate["kv_cache"]["bytes"] == 2 * 2 * 32 * 4096 * 6  # bf16, keys and values
    matrices = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 4096 * 32000
    assert works["prefill"]["forward"] > 8 * 2 * matrices


def test_flops_of_a_converted_folder_stand_beside_its_dense_model(
    undense: Command, converted: Path
) -> None:
    result = undense("flops", converted, "--json").result
    assert result["ffn"] == "as converted"
    assert all(w["agree"] for w in result["replaced"]["estimate"]["workloads"].values())
    assert result["replaced"]["flops"] < result["dense"]["flops"]
    assert sum(len(kind["ffns"]) for kind in result["trees"]) == result["ffns"] == 2


def test_flops_tells_the_tables_of_the_proposal(
    undense: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors = [claim for claim in CLAIMS if claim.method == "Tensor Factorization"]
    monkeypatch.setattr("undense.pipeline.claims.CLAIMS", factors)
    outcome = undense("flops", "--proposal")
    assert "Tensor Factorization" in outcome.out
    assert undense("flops").code == 2


def test_profile_plans_and_then_times(undense: Command, dense: Path, tmp_path: Path) -> None:
    words = ("profile", dense, "--tokens", "8", "--rounds", "2", "--output-dir", tmp_path / "p")
    plan = undense(*words, "--dry-run", "--json").result["plan"]
    assert plan["writes"][0].endswith("profile.json")
    assert not (tmp_path / "p").exists()
    shown = undense(*words)
    assert "attention" in shown.out
    assert "energy" in shown.out
    assert {path.name for path in (tmp_path / "p").iterdir()} == {
        "profile.json",
        "profile.png",
        "trace.json",
    }


def test_strict_fails_where_an_operation_has_no_formula(
    undense: Command, dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(formulas.FORMULAS, "aten.tanh")
    outcome = undense("flops", dense, "--strict")
    assert outcome.code != 0
    assert "aten.tanh (2 calls)" in outcome.err
    outcome = undense("flops", dense)
    assert outcome.code == 0
    assert "without a formula, dense: aten.tanh (2 calls)" in outcome.out


def test_results_are_kept_where_asked(undense: Command, dense: Path, tmp_path: Path) -> None:
    outcome = undense("flops", dense, "--json", "--output-dir", tmp_path / "new")
    kept = json.loads((tmp_path / "new" / "flops.json").read_text())
    assert kept == outcome.result


def test_doctor_finds_what_there_is(undense: Command, tmp_path: Path) -> None:
    outcome = undense("doctor", "--json", "--output-dir", tmp_path)
    checks = {check["name"]: check for check in outcome.result["checks"]}
    assert checks["torch"]["state"] == "ok"
    assert "gpt2" in checks["registration"]["found"]
    assert checks["corpus"]["found"].startswith("python-stdlib")
    on_gpu = checks["gpu kernels"]
    assert (on_gpu["state"] == "ok") == ("held against fp64" in on_gpu["found"])
    assert outcome.code == (0 if outcome.result["ok"] else 1)
    assert outcome.result["ok"] == all(c["state"] != "missing" for c in checks.values())
    assert all(check["remedy"] for check in checks.values() if check["state"] == "missing")


def test_doctor_fails_where_something_needed_is_missing(
    undense: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*args: object) -> None:
        raise OSError("no source of the standard library")

    monkeypatch.setattr("undense.train.corpus.load_corpus", nothing)
    outcome = undense("doctor")
    assert outcome.code == 1
    assert "MISSING" in outcome.out
    assert "no source of the standard library" in outcome.out


def test_doctor_goes_on_after_kernels_that_cannot_be_had(
    undense: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels.cache_clear()
    monkeypatch.setenv("UNDENSE_KERNELS", "fastest")
    try:
        outcome = undense("doctor", "--json")
    finally:
        monkeypatch.undo()
        kernels.cache_clear()
    checks = {check["name"]: check for check in outcome.result["checks"]}
    assert outcome.code == 1
    assert checks["kernels"]["state"] == "missing"
    assert "UNDENSE_KERNELS='fastest'" in checks["kernels"]["found"]
    assert checks["corpus"]["state"] == "ok"


def test_doctor_shows_every_path(
    undense: Command, own_calibration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undense.measure.kernel_paths.LEAST_ROUNDS", 2)
    monkeypatch.setattr("undense.measure.kernel_paths.SECONDS", 0.0)
    monkeypatch.setattr("undense.measure.timing.gc.collect", lambda: 0)  # longer than all the rest
    monkeypatch.setattr("undense.measure.kernel_paths.OPERATIONS", OPERATIONS[4:7])
    words = ("doctor", "--kernels", "--dims", "32", "--tokens", "3")
    result = undense(*words, "--json").result
    assert {row["operation"] for row in result["paths"]} == set(result["operations"])
    assert "routed" in result["operations"]
    assert result["environment"]["cpu"]
    outcome = undense(*words)
    assert outcome.code == 0
    assert "routed (token-chosen blocks, inference: the whole FFN)" in outcome.out
    assert ("*" in outcome.out) == (kernels().library is not None)
    for place in result["slower"]:
        assert f"NOT THE FASTEST: {place}" in outcome.out
    outcome = undense("doctor", "--refresh")
    assert outcome.code == 1
    assert "--refresh is for what --kernels measures" in outcome.err


def test_convert_says_first_what_it_would_do(undense: Command, place: Place) -> None:
    target = place.here / "out"
    words = ("convert", place.dense, "--ffn", "low_rank-50", "--targets", "0", "--output-dir")
    result = undense(*words, target, "--dry-run", "--json").result
    assert result["dry_run"]
    (site,) = result["plan"]["sites"]
    assert site["name"] == "transformer.h.0.mlp"
    assert result["plan"]["flops_after"] <= 0.5 * result["plan"]["flops_before"]
    assert "would write" in undense(*words, target, "--dry-run").out
    assert place.files() == set()


def test_a_converted_folder_holds_all_it_should(converted: Path) -> None:
    names = {path.name for path in converted.iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "recipe.json"}
    assert names >= {"metrics.json", "flops.json", "README.md"}
    card = (converted / "README.md").read_text()
    assert "import undense" in card
    assert str(converted.parent) not in card


def test_eval_repeats_what_convert_measured(undense: Command, converted: Path, text: Path) -> None:
    words = ("eval", converted, "--data", text, "--eval-blocks", "4")
    result = undense(*words, "--json").result
    written = json.loads((converted / "metrics.json").read_text())
    for key in ("loss", "batches_hash", "model_flops_per_token", "parameters"):
        assert result[key] == written[key], key
    assert f"{result['loss']:.4f}" in undense(*words).out


@pytest.mark.parametrize("verb", ["distill", "finetune"])
def test_training_steps_plan_and_then_do(
    undense: Command, place: Place, verb: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    target = place.here / "out"
    words = (verb, place.converted, "--output-dir", target, "--data", place.text)
    more = ("--eval-blocks", "4", "--steps", "2", "--batch", "2", "--json")
    plan = undense(*words, *more, "--dry-run").result["plan"]
    assert plan["training_tokens"] == 2 * 2 * 32
    assert plan["earlier_steps"] == ["convert"]
    assert place.files() == set()
    live = tmp_path_factory.mktemp("live")
    outcome = undense(*words, *more, "--live", live)
    assert any(path.name.startswith("events.") for path in live.iterdir())
    assert outcome.code == 0, outcome.err
    assert outcome.result["metrics"]["loss"] > 0
    recipe = json.loads((target / "recipe.json").read_text())
    assert [step["step"] for step in recipe["steps"]] == ["convert", verb]
    assert [path for path in place.files() if path.parent == place.here] == [target]


def test_bench_ffn_plans_and_then_measures(undense: Command, tmp_path: Path) -> None:
    words = ("bench", "ffn", "--arms", "narrow-25", "--widths", "32", "--tokens", "1", "2")
    words += ("--dtypes", "fp32", "--modes", "forward", "--rounds", "2", "--rotate-mb", "0.02")
    target = tmp_path / "b"
    plan = undense(*words, "--output-dir", target, "--dry-run", "--json").result
    assert len(plan["cells"]) == 4
    assert not target.exists()
    outcome = undense(*words, "--output-dir", target)
    assert outcome.code == 0, outcome.err
    assert "narrow-25" in outcome.out
    assert "last-level cache" in outcome.out
    result = undense(*words, "--output-dir", target, "--json").result
    assert {path.suffix for path in target.iterdir()} == {"", ".json", ".png"}
    assert len(result["cells"]) == 4
    assert "over the cap" in undense(*words, "--output-dir", target, "--cap-seconds", "1e-9").out


def test_bench_ffn_fails_where_an_arm_is_wrong(
    undense: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undense.ffn.dense.Dense.forward", _right_in_fp64_alone)
    words = ("bench", "ffn", "--arms", "none", "--widths", "32", "--tokens", "2")
    words += ("--dtypes", "fp32", "--modes", "forward", "--memories", "warm")
    outcome = undense(*words, "--rounds", "2", "--output-dir", tmp_path)
    assert outcome.code == 1
    assert "NOT RIGHT: dense (fp32, d=32, 2 tokens, forward): wrong" in outcome.out


def _right_in_fp64_alone(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else 1.5 * x


def test_bench_model_plans_and_then_measures(undense: Command, dense: Path, tmp_path: Path) -> None:
    words = ("bench", "model", dense, "--arms", "narrow-25", "--tokens", "8", "--new", "2")
    words += ("--rounds", "2", "--no-memory", "--output-dir", tmp_path / "b")
    plan = undense(*words, "--dry-run", "--json").result
    assert plan["arms"] == ["dense", "narrow-25", "none"]
    assert not (tmp_path / "b").exists()
    outcome = undense(*words)
    assert outcome.code == 0, outcome.err
    for shown in ("prefill, 8 tokens", "decode, 2 tokens after 8", "training", "bound"):
        assert shown in outcome.out, shown


def test_estimate_says_go_or_no_go(undense: Command, dense: Path, tmp_path: Path) -> None:
    words = ("estimate", dense, "--tokens", "1", "8", "--past", "2", "--seconds", "0.1")
    words += ("--arms", "micro_refine", "narrow-25", "--output-dir", tmp_path)
    shown = undense(*words).out
    assert "8 tokens: " in shown
    assert "go" in shown
    assert "narrow-25, the baseline" in shown
    kept = json.loads((tmp_path / "estimate.json").read_text())
    assert kept["tokens"]["8"]["best"] == "micro_refine"


def test_train_plans_from_the_recipe(undense: Command, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"steps": 3, "batch": 2, "context": 16}))
    words = ("train", "--recipe", recipe, "--output-dir", tmp_path / "out", "--seed", "7")
    plan = undense(*words, "--dry-run", "--json").result["plan"]
    assert (plan["training_tokens"], plan["seed"]) == (96, 7)
    assert not (tmp_path / "out").exists()


def test_the_help_of_train_names_every_field_of_a_recipe(undense: Command) -> None:
    shown = " ".join(undense("train", "--help").out.replace("│", " ").split())
    for each in fields(PretrainRecipe):
        assert f" {each.name}=" in shown, each.name
    assert "divergence=1.0 nats that the running loss may rise above its lowest" in shown


def test_train_with_fields_set_then_starts_another_from_its_ffns(
    undense: Command, text: Path, tmp_path: Path
) -> None:
    recipe, out = (tmp_path / "recipe.json", tmp_path / "out")
    sizes = {"hidden_size": 16, "layers": 1, "heads": 2, "context": 16, "batch": 2, "eval_limit": 4}
    recipe.write_text(json.dumps({**sizes, "data": str(text), "steps": 99}))
    words = ("train", "--recipe", recipe, "--ffn", "block_topk-50", "--json")
    more = ("--set", "steps=2", "tokenizer=bytes", "save_ffns_every=1", 'rates={"*.up": 0.5}')
    plan = undense(*words, "--output-dir", out, *more, "--dry-run").result["plan"]
    assert (plan["steps"], plan["tokenizer"], plan["rates"]) == (2, "bytes", {"*.up": 0.5})
    outcome = undense(*words, "--output-dir", out, *more)
    assert outcome.code == 0, outcome.err
    metrics = outcome.result["metrics"]
    assert metrics == json.loads((out / "metrics.json").read_text())
    assert metrics["tokens_seen"] == 2 * 2 * 16
    assert any(path.name.startswith("events.") for path in (out / "tensorboard").iterdir())
    start = ("--ffns-from", out / "ffns" / "step-2", "--output-dir", tmp_path / "next")
    again = undense(*words[:-1], *start, "--set", "steps=1", "tokenizer=bytes")
    assert again.code == 0, again.err
    assert "bits a byte" in again.out and "in steps" in again.out


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("steps", "--set steps: expected FIELD=VALUE"),
        ("stepps=3", "unknown field stepps"),
        ("steps=many", "steps='many'; expected int"),
    ],
)
def test_a_field_set_wrongly_is_one_clear_error(
    undense: Command, tmp_path: Path, given: str, says: str
) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text("{}")
    outcome = undense("train", "--recipe", recipe, "--output-dir", tmp_path / "out", "--set", given)
    assert outcome.code == 1
    assert says in outcome.err
    assert not (tmp_path / "out").exists()


def test_demo_plans_its_arms(undense: Command, dense: Path, tmp_path: Path) -> None:
    words = ("demo", "--model", dense, "--output-dir", tmp_path / "run", "--dry-run")
    result = undense(*words, "--arms", "dense", "narrow-25", "none", "--json").result
    assert list(result["arms"]) == ["dense", "narrow-25", "none"]
    assert result["arms"]["dense"]["ffn_share"] == 1
    assert result["arms"]["none"]["ffn_flops_per_token"] == 0
    assert not (tmp_path / "run").exists()


def test_nothing_but_the_result_reaches_stdout(
    dense: Path, text: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """On the level of the process, where libraries may hold the streams."""
    words = ("eval", dense, "--data", text, "--eval-blocks", "2", "--json")
    assert main([str(word) for word in words]) == 0
    out = capfd.readouterr().out
    assert json.loads(out)["model"] == str(dense)
    assert out.count("\n") == 1
