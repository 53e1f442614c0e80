"""Triton's kernels: right in its interpreter, compiled for GPUs without one, chosen by device."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from undense.kernels import grouped as choice
from undense.kernels.grouped import NO_TRITON, OnGPU, grouped, on_gpu
from undense.kernels.library import FORCED, VARIABLE, kernels

# Elsewhere there is no Triton to install; where there is, one that is missing is an error.
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")


def test_in_the_interpreter_the_products_are_those_in_fp64() -> None:
    """In a process of its own: the interpreter is for a whole process."""
    file = Path(__file__).with_name("triton_products.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(
        command,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "skipped" not in done.stdout


class Call(NamedTuple):
    kernel: Any
    operands: tuple[Any, ...]
    constants: dict[str, Any]


def calls(tokens: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What `TritonPairs` would call, once each, for GPT-2's width at `ultra-25`."""
    from undense.kernels.triton_pairs import TritonPairs

    found: dict[str, Call] = {}

    def note(
        self: TritonPairs, kernel: Any, grid: tuple[int, ...], *operands: Any, **constants: Any
    ) -> None:
        assert all(isinstance(size, int) and 0 < size < 2**31 for size in grid)
        found.setdefault(kernel.__name__, Call(kernel, operands, constants))

    monkeypatch.setattr(TritonPairs, "_run", note)
    pairs = TritonPairs(torch.rand(tokens, 96).topk(18, 1).indices, 96)
    rows, matrix = torch.zeros(tokens, 768, dtype=dtype), torch.zeros(96, 32, 768, dtype=dtype)
    inner = pairs.gather_dot(rows, matrix, torch.zeros(96, 32, dtype=dtype))
    pairs.scatter_add(inner, matrix)
    pairs.outer_sum(inner, rows)
    return list(found.values())


def compiled(call: Call, capability: int) -> Any:
    """The kernel for those operands, as a call on that GPU would compile it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    names = call.kernel.arg_names
    types = {torch.int64: "*i64", torch.float32: "*fp32", torch.bfloat16: "*bf16"}
    signature = dict.fromkeys(names, "constexpr")
    even = {}
    for place, (name, value) in enumerate(zip(names, call.operands, strict=False)):
        signature[name] = types[value.dtype] if isinstance(value, Tensor) else "i32"
        if isinstance(value, Tensor) or value % 16 == 0:
            even[(place,)] = [["tt.divisibility", 16]]
    assert [name for name in names if signature[name] == "constexpr"] == list(call.constants)
    source = ASTSource(call.kernel, signature, call.constants, even)
    return compile(source, target=GPUTarget("cuda", capability, 32))


@pytest.mark.parametrize(
    ("tokens", "dtype", "capability"),
    [(1, torch.bfloat16, 80), (512, torch.bfloat16, 90), (512, torch.float32, 80)],
)
def test_every_kernel_compiles_for_a_gpu(
    tokens: int,
    dtype: torch.dtype,
    capability: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The interpreter accepts what the compiler does not."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found = {}
    for call in calls(tokens, dtype, monkeypatch):
        built = compiled(call, capability)
        name = call.kernel.__name__
        found[name] = built.asm["ptx"]
        assert built.asm["cubin"]
        assert built.metadata.shared <= 99 * 1024, name  # of a program, on the smaller cards
    assert set(found) == {"gather_dot", "scatter", "add_up", "outer_sum"}
    if dtype == torch.bfloat16:
        units = {name for name, text in found.items() if "mma" in text}
        assert units == {"gather_dot", "scatter", "outer_sum"}


@pytest.fixture
def decided_anew() -> Iterator[None]:
    for cached in (kernels, on_gpu):
        cached.cache_clear()
    yield
    for cached in (kernels, on_gpu):
        cached.cache_clear()


def test_without_triton_a_gpu_runs_plain_pytorch(
    decided_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert on_gpu() == OnGPU("reference", NO_TRITON)


def test_plain_pytorch_is_had_for_the_asking(
    decided_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "reference")
    assert on_gpu() == OnGPU("reference", FORCED)


class Elsewhere(NamedTuple):
    """As much of a tensor on a GPU as the choice looks at."""

    device: torch.device
    dtype: torch.dtype

    def __len__(self) -> int:
        return 7


@pytest.mark.parametrize(
    ("device", "dtype", "path", "kind"),
    [
        ("cuda", torch.bfloat16, "triton", "TritonPairs"),
        ("cuda", torch.float64, "triton", "ReferencePairs"),
        ("cuda", torch.float32, "reference", "ReferencePairs"),
        ("xpu", torch.float32, "triton", "ReferencePairs"),
    ],
)
def test_the_device_and_the_dtype_choose(
    device: str, dtype: torch.dtype, path: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "on_gpu", lambda: OnGPU(path, ""))
    matrix: Any = Elsewhere(torch.device(device), dtype)
    assert type(grouped(torch.zeros(2, 1, dtype=torch.int64), matrix)).__name__ == kind


def test_a_cpu_does_without_triton() -> None:
    """Nothing reads it where tensors are on the CPU: here it cannot be imported."""
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, undense\n"
        "from undense.contract import DenseShape, build\n"
        "from undense.ffn.presets import resolve\n"
        "ffn = build(48, resolve('ultra-25', DenseShape(dim=48, hidden=192)))\n"
        "ffn(torch.randn(9, 48)).sum().backward()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
