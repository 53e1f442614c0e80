"""What only a fresh process can show. Each costs seconds, so a few processes answer it all."""

from __future__ import annotations

import json
import subprocess
import sys

import hosts
import pytest
import torch
from transformers import AutoModelForCausalLM

from undense.convert.convert import _auto_class, convert_
from undense.ffn import UltraEfficientSparseFFN

RELOAD = """
import json, sys
import torch
from transformers import AutoModelForCausalLM
folders, prompt, out = json.loads(sys.argv[1])
try:
    AutoModelForCausalLM.from_pretrained(folders["ultra"])
    refusal = "loaded"
except ValueError as error:
    refusal = str(error)
import undense
prompt = torch.tensor(prompt)
found = {"refusal": refusal}
for name, folder in folders.items():
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        found[name] = model(prompt).logits, model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False
        )
torch.save(found, out)
"""

EVERY = """
import json, sys
import torch
import transformers
import undense
folders, out = json.loads(sys.argv[1])
found = {}
for host, (auto, folder, batch) in folders.items():
    model = getattr(transformers, auto).from_pretrained(folder)
    with torch.no_grad():
        found[host] = model(**{name: torch.tensor(rows) for name, rows in batch.items()})[0]
torch.save(found, out)
"""

PLAN = """
import json, sys, time
from pathlib import Path
import undense
from undense.convert.registration import register
register()  # once more does nothing
assert "torch" not in sys.modules and "transformers" not in sys.modules
from transformers import LlamaConfig  # its import runs through that of the Auto classes
start = time.perf_counter()
told = undense.plan(LlamaConfig(), "ultra-25")  # the defaults are those of Llama 2 7B
seconds = time.perf_counter() - start
# getrusage would tell the peak of the process that this one was forked from, if that was higher
status = Path("/proc/self/status").read_text()
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
from transformers import AutoConfig, PreTrainedModel
known = type(AutoConfig.for_model("undense_llama")).__name__
guarded = hasattr(PreTrainedModel.save_pretrained, "__undense__")
json.dump([seconds, peak, told.to_dict(), known, guarded], sys.stdout)
"""


def fresh(script: str, *arguments: str) -> str:
    """Run a script in a new interpreter; its output."""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def reloaded(make, tmp_path_factory):
    """Models saved here and what a fresh process found in them, beside what this one finds."""
    root = tmp_path_factory.mktemp("models")
    text = torch.randint(97, (16, 32), generator=torch.Generator().manual_seed(2))
    prompt = torch.randint(97, (2, 11), generator=torch.Generator().manual_seed(3))
    models = {name: make(family) for name, family in FAMILY.items()}
    convert_(models["ultra"], "ultra-25", calibration=text)
    convert_(models["mixed"], "spectral", targets="0", calibration=text)
    convert_(models["mixed"], "none", targets="1", calibration=text)
    # not `.to(bfloat16)`, which rounds the rotary frequencies too: stock models reload differently
    half = AutoModelForCausalLM.from_config(models["partly"].config, dtype=torch.bfloat16)
    models["partly"] = half.eval()
    convert_(half, "ultra-all-25", exclude="0", calibration=text)
    for layer in models["by hand"].transformer.h:
        layer.mlp = UltraEfficientSparseFFN(d=48, k_freq=3).eval()
    folders = {}
    expected = {}
    for name, model in models.items():
        folders[name] = str(root / name.replace(" ", "-"))
        model.save_pretrained(folders[name])
        with torch.no_grad():
            expected[name] = (
                model(prompt).logits,
                model.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=8,
                    do_sample=False,
                ),
            )
    out = root / "found.pt"
    fresh(RELOAD, json.dumps([folders, prompt.tolist(), str(out)]))
    return expected, torch.load(out)


FAMILY = {"ultra": "gpt2", "mixed": "llama", "partly": "llama", "by hand": "gpt2"}


@pytest.mark.parametrize("name", FAMILY)
def test_a_fresh_process_computes_the_same_bits_and_writes_the_same_text(reloaded, name):
    (logits, tokens), (again, same) = (found[name] for found in reloaded)
    assert torch.equal(logits, again)
    assert torch.equal(tokens, same)


def test_every_family_comes_back_in_a_fresh_process_bit_by_bit(tmp_path):
    folders, expected = {}, {}
    for host in hosts.HOSTS:
        model = hosts.tiny(host)
        convert_(model, "narrow-50", calibration=hosts.calibration(model))
        batch = hosts.inputs(model)
        expected[host] = hosts.outputs(model, batch)
        folder = tmp_path / host.replace("/", "-")
        model.save_pretrained(folder)
        rows = {name: tensor.tolist() for name, tensor in batch.items()}
        folders[host] = (_auto_class(model.config).__name__, str(folder), rows)
    out = tmp_path / "found.pt"
    fresh(EVERY, json.dumps([folders, str(out)]))
    found = torch.load(out)
    for host, wanted in expected.items():
        assert torch.equal(found[host], wanted), host


def test_without_undense_transformers_says_that_it_does_not_know_the_type(reloaded):
    refusal = reloaded[1]["refusal"]
    assert "`undense_gpt2`" in refusal and "does not recognize this architecture" in refusal


def test_a_7b_model_is_planned_in_seconds_without_memory_and_registering_costs_no_import():
    seconds, peak, told, known, guarded = json.loads(fresh(PLAN))
    assert told["model_parameters_before"] == 6_738_415_616
    dense = 3 * 2 * 4096 * 11008 + 6 * 11008  # three products; silu at 5 a neuron, the gating
    assert told["flops_before"] == 32 * dense
    assert 0.249 < told["flops_after"] / told["flops_before"] <= 0.25
    assert seconds < 10
    assert peak < 1e9
    assert known == "UndenseLlamaConfig"
    assert guarded


def test_a_spectral_model_may_be_the_first_thing_that_a_process_asks_for():
    code = "import undense; print(undense.SpectralModel.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.strip() == "SpectralModel", done.stderr
