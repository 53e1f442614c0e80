"""Which kernels run: decided once, by the CPU or by the environment variable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from undense.kernels.library import ELSEWHERE, LEVELS, VARIABLE, kernels

PROGRAM = """
import torch, undense, undense.mixers
from undense import mixing
from undense.mixers import all_parts
from undense.contract import DenseShape, build
from undense.ffn.presets import resolve
from undense.kernels.library import kernels
torch.manual_seed(0)
total = 0.0
for gated, activation in ((False, "gelu_tanh"), (True, "silu"), (False, "gelu"), (True, "relu2")):
    shape = DenseShape(dim=72, hidden=288, activation=activation, gated=gated, bias=not gated)
    ffn = build(72, resolve("ultra-40", shape)).eval()
    with torch.no_grad():
        for tokens in (1, 50):
            total += (ffn(torch.randn(tokens, 72)).double() * torch.linspace(1, 2, 72)).sum().item()
    x = torch.randn(9, 72, requires_grad=True)
    ffn(x).sum().backward()
    total += x.grad.double().sum().item()
mixer = mixing.build(24, all_parts(chunk=8)).eval()
x = torch.randn(2, 21, 24)
with torch.no_grad():
    y, state = mixer(x)
    token, state = mixer(x[:, :1], state)
    total += sum((t.double() * torch.linspace(1, 2, t.shape[-1])).sum().item() for t in (y, token))
x.requires_grad_()
(mixer(x)[0] * torch.linspace(1, 2, 24)).sum().backward()
grads = (x.grad, mixer.kernel.raw.grad, mixer.conv.grad)
total += sum(grad.double().abs().sum().item() for grad in grads)
print(kernels().path, total)
"""


def run(wanted: str, library: Path | None = None) -> subprocess.CompletedProcess[str]:
    elsewhere = {} if library is None else {ELSEWHERE: str(library)}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, VARIABLE: wanted, **elsewhere},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_instruction_set_computes_the_same() -> None:
    expected = run("reference")
    path, total = expected.stdout.split()
    assert path == "reference"
    if kernels().library is None:
        pytest.skip("no compiled library: " + kernels().reason)
    best = LEVELS.index(kernels().path)
    for level in LEVELS[: best + 1]:
        done = run(level)
        path, other = done.stdout.split()
        assert path == level
        assert float(other) == pytest.approx(float(total), rel=1e-4)


def test_where_there_is_a_compiler_there_is_a_library() -> None:
    """A failed build is no error to the installer, so that it must be one here."""
    if shutil.which("c++") or shutil.which("g++"):
        assert kernels().library is not None or VARIABLE in os.environ, kernels().reason


def test_an_empty_choice_is_no_choice() -> None:
    done = run("")
    assert done.returncode == 0, done.stderr


def test_an_unknown_path_is_one_clear_error() -> None:
    done = run("fastest")
    assert done.returncode != 0
    assert f"{VARIABLE}='fastest'; it must be one of auto, reference" in done.stderr


def test_a_library_of_other_sources_is_refused(tmp_path: Path) -> None:
    """One of an earlier version of this package, or any other."""
    source, library = tmp_path / "old.c", tmp_path / "old.so"
    source.write_text("int undense_interface(void) { return 0; }\n")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    done = run("auto", library)
    assert done.returncode != 0
    assert "old.so was built from other sources: its interface is 0, not" in done.stderr


def test_a_library_that_was_asked_for_and_is_not_there_is_one_clear_error() -> None:
    done = run("auto", Path("/nowhere/library.so"))
    assert done.returncode != 0
    assert f"{ELSEWHERE}=/nowhere/library.so, but the library does not load" in done.stderr
