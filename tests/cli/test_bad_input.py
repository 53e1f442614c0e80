"""Whatever a user gets wrong, or the machine: one line that names it, no traceback, no new file."""

from __future__ import annotations

import pytest
import torch
from commands import Command, Place
from faults import (
    Case,
    convert,
    ctrl_c,
    ctrl_c_while_saving,
    damaged,
    disk_full,
    evaluate,
    few_words,
    few_words_recipe,
    file,
    nan_weights,
    spec,
    tensors,
)

CASES = [
    # what to put in
    Case(name="component", argv=convert("--ffn", "ulra-25"), says=("'ulra-25'", "ultra")),
    Case(
        name="inline component",
        argv=convert(*spec(component="spectrl")),
        says=("did you mean spectral",),
    ),
    Case(
        name="setting",
        argv=convert(*spec(component="spectral", kfreq=3)),
        says=("'kfreq'", "k_freq"),
    ),
    Case(name="inline JSON", argv=convert("--ffn", '{"component"'), says=("not JSON",)),
    Case(name="no component", argv=convert("--ffn", "{}"), says=("'component'",)),
    Case(name="no JSON file", argv=convert("--ffn", "gone.json"), says=("'gone.json'",)),
    Case(
        name="JSON file",
        argv=lambda p: convert("--ffn", str(p.here / "list.json"))(p),
        prepare=file("list.json", b"[1]"),
        says=("JSON object",),
    ),
    Case(name="preset", argv=convert("--ffn", "seed-25"), says=("'seed'", "ultra-all-N")),
    Case(name="share of 0", argv=convert("--ffn", "ultra-0"), says=("'ultra-0'", "above 0")),
    Case(name="share of 2000", argv=convert("--ffn", "narrow-2000"), says=("1000",)),
    Case(name="too little", argv=convert("--ffn", "ultra-1"), says=("smallest", "at least")),
    Case(name="no size", argv=convert("--ffn", "none-25"), says=("none", "no size")),
    Case(
        name="indivisible projection",
        argv=convert(*spec(component="projection", blocks=5)),
        says=("blocks=5", "32"),
    ),
    Case(
        name="indivisible factors",
        argv=convert(*spec(component="tensor_factor", blocks=7)),
        says=("7",),
    ),
    Case(
        name="ratio above 1",
        argv=convert(*spec(component="polynomial", poly_keep_ratio=1.5)),
        says=("poly_keep_ratio=1.5",),
    ),
    Case(
        name="ratio of 0",
        argv=convert(*spec(component="micro_refine", micro_keep_ratio=0)),
        says=("micro_keep_ratio=0",),
    ),
    Case(
        name="dropout", argv=convert(*spec(component="ultra", dropout=1.5)), says=("dropout=1.5",)
    ),
    # where to put it
    Case(name="target", argv=convert("--targets", "mlpp"), says=("'mlpp'", "mlp?")),
    Case(name="no match", argv=convert("--targets", "re:lstm.*"), says=("'re:lstm.*'", "h.0.mlp")),
    Case(name="regex", argv=convert("--targets", "re:("), says=("regular expression",)),
    Case(name="layer", argv=convert("--targets", "7"), says=("'7'", "h.1.mlp")),
    Case(name="exclude", argv=convert("--exclude", "attn"), says=("'attn'",)),
    Case(name="all excluded", argv=convert("--exclude", "mlp"), says=("no FFN", "exclude fewer")),
    # models
    Case(
        name="no such model",
        argv=lambda p: ["eval", p.here / "gone"],
        says=("gone", "neither"),
    ),
    Case(
        name="no model folder",
        argv=lambda p: ["convert", p.text, "--output-dir", p.here / "out"],
        says=("text",),
    ),
    Case(
        name="another family",
        argv=lambda p: ["convert", p.here / "xlnet", "--output-dir", p.here / "out", "--dry-run"],
        prepare=file("xlnet/config.json", b'{"model_type": "xlnet"}'),
        says=("'xlnet'", "gpt2"),
    ),
    Case(
        name="config is no JSON",
        argv=evaluate("converted"),
        prepare=damaged(lambda content: content[:40], "config.json"),
        says=("converted", "its config.json", "not a valid JSON"),
    ),
    Case(
        name="NaN weights",
        argv=lambda p: [*convert()(p)[:1], p.here / "dense", *convert()(p)[2:]],
        prepare=nan_weights,
        says=("h.1.mlp.c_fc.weight", "NaN"),
    ),
    Case(
        name="truncated weights",
        argv=evaluate("converted"),
        prepare=damaged(lambda content: content[: len(content) // 2]),
        says=("safetensors",),
    ),
    Case(
        name="corrupt weights",
        argv=evaluate("converted"),
        prepare=damaged(lambda content: b"\xff" * 64 + content[64:]),
        says=("safetensors",),
    ),
    Case(
        name="missing key",
        argv=evaluate("converted"),
        prepare=tensors(lambda weights, key: weights.pop(key)),
        says=("1 missing", "h.0.mlp"),
    ),
    Case(
        name="extra key",
        argv=evaluate("converted"),
        prepare=tensors(lambda weights, key: weights.update(surplus=torch.zeros(2))),
        says=("1 unexpected", "surplus"),
    ),
    Case(
        name="mis-shaped key",
        argv=evaluate("converted"),
        prepare=tensors(lambda weights, key: weights.update({key: torch.zeros(3, 5)})),
        says=("another shape", "h.0.mlp", "(3, 5)"),
    ),
    Case(
        name="nothing to convert",
        argv=lambda p: ["convert", p.converted, *convert()(p)[2:]],
        says=("converted", "revert_"),
    ),
    Case(
        name="nothing to distil",
        argv=lambda p: ["distill", p.dense, "--output-dir", p.here / "out", "--data", p.text],
        says=("distil",),
    ),
    Case(
        name="nothing to fine-tune",
        argv=lambda p: [
            *("finetune", p.dense, "--output-dir", p.here / "deep" / "out", "--train", "ffn"),
            *("--data", p.text, "--eval-blocks", "4"),
        ],
        says=("train='ffn'", "convert the model first"),
    ),
    Case(
        name="teacher of another size",
        argv=lambda p: [
            *("distill", p.converted, "--teacher", "tiny", "--output-dir", p.here / "out"),
            *("--data", p.text),
        ],
        says=("192", "32", "--teacher"),
    ),
    Case(
        name="no weights",
        argv=lambda p: ["eval", p.here],
        prepare=file("config.json", b'{"model_type": "gpt2", "n_layer": 1}'),
        says=("neither", "safetensors"),
    ),
    Case(
        name="recipe of a folder",
        argv=lambda p: [
            *("finetune", p.here / "converted", "--output-dir", p.here / "out", "--data", p.text),
        ],
        prepare=damaged(lambda content: content[:9], "recipe.json"),
        says=("recipe.json", "not valid JSON"),
    ),
    # text
    Case(name="no data", argv=convert("--data", "gone.txt"), says=("gone.txt", "no such file")),
    Case(
        name="empty data",
        argv=lambda p: convert("--data", str(p.here / "empty.txt"))(p),
        prepare=file("empty.txt", b""),
        says=("empty.txt", "empty"),
    ),
    Case(
        name="not UTF-8",
        argv=lambda p: convert("--data", str(p.here / "latin.txt"))(p),
        prepare=file("latin.txt", "Bär ".encode("latin-1") * 9000),
        says=("latin.txt", "UTF-8"),
    ),
    Case(
        name="too little text",
        argv=lambda p: convert("--data", str(p.here / "few"))(p),
        prepare=few_words,
        says=("do not fill one block",),
    ),
    Case(name="block of one", argv=convert("--context", "1"), says=("context=1",)),
    Case(
        name="evaluate on nothing",
        argv=lambda p: ["eval", p.dense, "--data", p.text, "--eval-blocks", "0"],
        says=("eval_blocks=0",),
    ),
    # recipes
    Case(
        name="recipe text too short",
        argv=lambda p: ["train", "--recipe", p.here / "r.json", "--output-dir", p.here / "a/out"],
        prepare=few_words_recipe,
        says=("do not fill one block",),
    ),
    # run folders
    Case(
        name="demo of no model",
        argv=lambda p: ["demo", "--model", p.here / "gone", "--output-dir", p.here / "run"],
        says=("gone", "neither"),
    ),
    Case(
        name="demo arm",
        argv=lambda p: [
            *("demo", "--model", p.dense, "--data", p.text, "--output-dir", p.here / "run"),
            *("--arms", "dense", "ulra-25"),
        ],
        says=("'ulra-25'", "ultra"),
    ),
    Case(
        name="demo into a file",
        argv=lambda p: ["demo", "--output-dir", p.here / "run"],
        prepare=file("run", b"x"),
        says=("run", "no run folder"),
    ),
    Case(
        name="settings of a run",
        argv=lambda p: ["demo", "--output-dir", p.here / "run"],
        prepare=file("run/settings.json", b"{"),
        says=("settings.json", "not valid JSON"),
    ),
    Case(
        name="timing rounds",
        argv=lambda p: ["demo", "--timing-rounds", "1", "--output-dir", p.here / "run"],
        says=("timing_rounds=1", "at least 2"),
    ),
    Case(name="seed", argv=lambda p: ["eval", p.dense, "--seed", "-1"], says=("seed=-1",)),
    Case(
        name="rate",
        argv=lambda p: [
            *("finetune", p.dense, "--output-dir", p.here / "out", "--learning-rate", "nan"),
        ],
        says=("learning_rate=nan", "above 0"),
    ),
    Case(
        name="result into a file",
        argv=lambda p: ["eval", p.dense, "--output-dir", p.here / "f"],
        prepare=file("f", b"x"),
        says=("is a file", "--output-dir"),
    ),
    Case(name="report of nothing", argv=lambda p: ["report", p.text], says=("no run folder",)),
    # run settings
    Case(name="percents", argv=lambda p: ["demo", "--percents", "150"], says=("percents=150",)),
    Case(name="arms", argv=lambda p: ["demo", "--arms", "ultra-25"], says=("'dense'",)),
    Case(name="batch", argv=lambda p: ["demo", "--batch", "0"], says=("batch=0",)),
    Case(
        name="distill steps",
        argv=lambda p: ["distill", p.converted, "--output-dir", p.here / "out", "--steps", "0"],
        says=("steps=0",),
    ),
    Case(
        name="teacher weight",
        argv=lambda p: [
            *("finetune", p.dense, "--output-dir", p.here / "out", "--teacher-weight", "2"),
        ],
        says=("teacher_weight=2",),
    ),
    Case(name="tokens", argv=lambda p: ["flops", p.dense, "--tokens", "0"], says=("tokens=0",)),
    Case(name="cache", argv=lambda p: ["flops", p.dense, "--cache", "fp3"], says=("cache='fp3'",)),
    Case(name="example", argv=lambda p: ["flops", "example:lama"], says=("example:llama-7b",)),
    Case(
        name="converted already",
        argv=lambda p: ["flops", p.converted, "--ffn", "ultra-25"],
        says=("converted already",),
    ),
    Case(name="rounds", argv=lambda p: ["profile", p.dense, "--rounds", "0"], says=("rounds=0",)),
    Case(
        name="places without a replacement",
        argv=lambda p: ["flops", p.dense, "--targets", "mlp"],
        says=("--ffn",),
    ),
    # speed
    Case(
        name="bench arm",
        argv=lambda p: ["bench", "ffn", "--arms", "ulra-25", "--output-dir", p.here / "b"],
        says=("'ulra-25'", "ultra"),
    ),
    Case(
        name="bench size",
        argv=lambda p: [
            *("bench", "ffn", "--arms", "ultra-1", "--widths", "32"),
            *("--output-dir", p.here / "b"),
        ],
        says=("smallest size", "at least"),
    ),
    Case(
        name="bench without an arm",
        argv=lambda p: ["bench", "ffn", "--arms"],
        says=("arms names no FFN",),
    ),
    Case(
        name="bench dense twice",
        argv=lambda p: ["bench", "ffn", "--arms", "dense"],
        says=("always measured",),
    ),
    Case(
        name="bench tokens",
        argv=lambda p: ["bench", "ffn", "--tokens", "16", "0"],
        says=("tokens=0", "at least 1"),
    ),
    Case(
        name="bench dtype",
        argv=lambda p: ["bench", "ffn", "--dtypes", "fp16"],
        says=("dtypes='fp16'", "fp32, bf16"),
    ),
    Case(
        name="bench mode",
        argv=lambda p: ["bench", "ffn", "--modes", "backward"],
        says=("modes='backward'", "training"),
    ),
    Case(
        name="bench rounds",
        argv=lambda p: ["bench", "ffn", "--rounds", "1"],
        says=("rounds=1", "at least 2"),
    ),
    Case(
        name="bench cap",
        argv=lambda p: ["bench", "ffn", "--cap-seconds", "0"],
        says=("cap_seconds=0", "above 0"),
    ),
    Case(
        name="bench threads",
        argv=lambda p: ["bench", "model", p.dense, "--threads", "0"],
        says=("threads=0", "at least 1"),
    ),
    Case(
        name="bench into a file",
        argv=lambda p: ["bench", "ffn", "--arms", "narrow-25", "--output-dir", p.here / "f"],
        prepare=file("f", b"x"),
        says=("is a file", "--output-dir"),
    ),
    Case(
        name="bench no model",
        argv=lambda p: ["bench", "model", p.here / "gone", "--output-dir", p.here / "b"],
        says=("gone", "neither"),
    ),
    Case(
        name="bench a converted model",
        argv=lambda p: ["bench", "model", p.converted, "--output-dir", p.here / "b"],
        says=("converted already", "dense source"),
    ),
    Case(
        name="bench too many tokens",
        argv=lambda p: ["bench", "model", p.dense, "--arms", "narrow-25", "--tokens", "40"],
        says=("exceed the 32 positions", "--tokens"),
    ),
    Case(
        name="bench workload",
        argv=lambda p: ["bench", "model", p.dense, "--workloads", "chat"],
        says=("workloads='chat'", "prefill"),
    ),
    Case(
        name="bench model twice",
        argv=lambda p: ["bench", "model", "tiny", "tiny"],
        says=("only once",),
    ),
    Case(
        name="estimate arm",
        argv=lambda p: ["estimate", p.dense, "--arms", "ulra-25", "--tokens", "1", "--past", "1"],
        says=("'ulra-25'", "ultra"),
    ),
    Case(
        name="estimate too long",
        argv=lambda p: ["estimate", p.dense, "--past", "32"],
        says=("32 positions", "--past"),
    ),
    Case(
        name="estimate worth",
        argv=lambda p: ["estimate", p.dense, "--worth", "1"],
        says=("worth=1", "above 1"),
    ),
    Case(
        name="estimate an encoder",
        argv=lambda p: ["estimate", p.here / "bert"],
        prepare=file("bert/config.json", b'{"model_type": "bert"}'),
        says=("'bert'", "no causal language model"),
    ),
    Case(name="half a verb", argv=lambda p: ["bench"], says=("bench ffn or bench model",), code=2),
    Case(
        name="the other half of a verb",
        argv=lambda p: ["bench", "fnn"],
        says=("bench ffn or bench model",),
        code=2,
    ),
    Case(
        name="no recipe",
        argv=lambda p: ["train", "--recipe", p.here / "no.json", "--output-dir", p.here / "out"],
        says=("no.json",),
    ),
    Case(
        name="recipe field",
        argv=lambda p: ["train", "--recipe", p.here / "r.json", "--output-dir", p.here / "out"],
        prepare=file("r.json", b'{"stepps": 3}'),
        says=("stepps", "steps"),
    ),
    # folders
    Case(
        name="output exists",
        argv=convert(),
        prepare=file("out/thesis.txt", b"mine"),
        says=("out", "--output-dir"),
    ),
    Case(
        name="output of another kind",
        argv=lambda p: ["demo", "--model", p.dense, "--output-dir", p.here / "mine"],
        prepare=file("mine/thesis.txt", b"mine"),
        says=("mine", "no run folder"),
    ),
    Case(name="no run", argv=lambda p: ["report", p.text], says=("run.json",)),
    Case(name="no run folder", argv=lambda p: ["report", p.here / "x"], says=("no such folder",)),
    Case(
        name="half a run",
        argv=lambda p: ["report", p.here / "run"],
        prepare=file("run/run.json", b'{"format": 1,'),
        says=("run.json", "JSON"),
    ),
    # the machine, and whoever sits before it
    Case(name="disk full", argv=convert(), prepare=disk_full, says=("disk is full",)),
    Case(name="Ctrl-C", argv=convert(), prepare=ctrl_c, says=("interrupted",), code=130),
    Case(
        name="Ctrl-C while saving",
        argv=convert(),
        prepare=ctrl_c_while_saving,
        says=("interrupted",),
        code=130,
    ),
    # the command line itself
    Case(name="verb", argv=lambda p: ["convrt"], says=("'convrt'", "convert?"), code=2),
    Case(name="option", argv=convert("--fnn", "ultra"), says=("--fnn", "--ffn?"), code=2),
    Case(name="value", argv=convert("--seed", "one"), says=("--seed", "one"), code=2),
    Case(name="no value", argv=convert("--seed"), says=("--seed",), code=2),
    Case(name="no model named", argv=lambda p: ["eval"], says=("FOLDER",), code=2),
]


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 30
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_line_says_what_is_wrong_and_nothing_is_left(
    case: Case,
    place: Place,
    undense: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place.here)
    case.prepare(place, monkeypatch)
    before = place.files()
    outcome = undense(*case.argv(place))
    assert outcome.code == case.code, outcome.err
    assert len(outcome.errors) == 1, outcome.err
    for words in case.says:
        assert words in outcome.errors[0], outcome.errors[0]
    assert (
        "unexpected" not in outcome.errors[0]
        or "unexpected" in "".join(case.says)
        or ("1 unexpected" in outcome.errors[0])
    )
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    assert place.files() == before


def test_debug_adds_the_traceback(place: Place, undense: Command) -> None:
    outcome = undense("eval", place.here / "gone", "--debug")
    assert outcome.code == 1
    assert "Traceback" in outcome.err
    assert len(outcome.errors) == 1
