"""Who counts what: FLOP counters beside figures worked out by hand.

    pip install fvcore calflops ptflops thop deepspeed      # each optional
    python benchmarks/counters.py

Subjects: one GPT-2 block (d = 768, 128 tokens), with its dense FFN, with the original proposal's
composition and with `ultra-25`; and one operation each. The truth is the arithmetic in `truths`, on
purpose without any helper of the package. Tools that count multiply-adds are compared with twice
their figure. Each run has a process of its own, as some tools leave PyTorch patched. Writes
`benchmarks/results/counters-DATE.json` and prints the share of the truth that each tool reports:
100 % is right, 0 % unseen.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import importlib.metadata
import io
import logging
import multiprocessing
import warnings
from collections.abc import Callable
from math import log2
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from counter_tools import MODULES, TOOLS
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from undense.contract import DenseShape, build
from undense.ffn.presets import resolve
from undense.files import write_json

ROOT = Path(__file__).resolve().parent.parent
T, D, HEADS = 128, 768, 12
SHAPE = DenseShape(dim=D, hidden=4 * D, activation="gelu_tanh", bias=True)


class Does(nn.Module):
    """A module around a function, with the parameters that it takes after its input."""

    def __init__(self, function: Callable[..., Tensor], *weights: Tensor) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.weights)


def block(spec: str | None) -> nn.Module:
    config = GPT2Config(n_embd=D, n_head=HEADS, n_layer=1, attn_implementation="sdpa")
    made = GPT2Block(config, layer_idx=0)
    if spec is not None:
        made.mlp = build(D, resolve(spec, SHAPE))
    return made.eval()


def self_attention(x: Tensor) -> Tensor:
    heads = x.view(1, T, HEADS, D // HEADS).transpose(1, 2)
    return F.scaled_dot_product_attention(heads, heads, heads, is_causal=True)


def filtered(x: Tensor, gain: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x) * gain, n=x.shape[-1])


def subjects() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Name -> module and the shape of its input."""
    tokens = (1, T, D)
    return {
        "GPT-2 block, dense": (block(None), tokens),
        "GPT-2 block, seed": (block("seed"), tokens),
        "GPT-2 block, ultra-25": (block("ultra-25"), tokens),
        "linear layer": (nn.Linear(D, D), tokens),
        "layer norm": (nn.LayerNorm(D), tokens),
        "GELU": (nn.GELU(), tokens),
        "softmax": (nn.Softmax(-1), tokens),
        "residual sum": (Does(lambda x: x + x), tokens),
        "attention": (Does(self_attention), tokens),
        "FFT filter": (Does(filtered, torch.ones(513)), (1, T, 1024)),
        "matrix and vector": (Does(lambda x, w: torch.mv(w, x), torch.ones(D, D)), (D,)),
        "complex matrices": (
            Does(lambda x, w: torch.mm(x.to(w.dtype), w), torch.ones(D, D, dtype=torch.complex64)),
            (T, D),
        ),
        "batched blocks": (
            Does(
                lambda x, w: torch.bmm(x.view(T, 4, -1).transpose(0, 1), w), torch.ones(4, 192, 192)
            ),
            tokens,
        ),
        "depthwise convolution": (nn.Conv1d(D, D, 3, groups=D, bias=False), (1, D, T + 2)),
    }


def truths() -> dict[str, int]:
    """FLOPs by hand. A multiply-add is 2; a sum, a comparison or an elementary function 1."""
    norm = T * D * (6 + 2)  # mean, subtract, square, sum, subtract, multiply; weight, bias
    scores = HEADS * T * T
    attention = 2 * (2 * scores * (D // HEADS)) + scores * (1 + 5)  # QK, PV; scale, softmax
    around = (
        norm
        + T * (2 * D * 3 * D + 3 * D)  # query, key, value
        + attention
        + T * (2 * D * D + D)  # output projection
        + T * D  # residual
        + norm
        + T * D  # residual
    )
    # x * 0.5 * (1 + tanh(c * (x + 0.044715 * x ** 3))): 2 for the cube, 7 for the rest
    dense = T * (2 * D * 4 * D + 4 * D + 9 * 4 * D + 2 * 4 * D * D + D)
    k, kept = 20 * D // 128, 3 * D // 10  # frequencies, channels
    seed = (
        2 * norm
        # to the frequencies' sines and cosines, one gain, one twist and their sum, and back
        + T * (2 * D * 2 * k + 3 * 2 * k + 2 * 2 * k * D)
        # three times a scale z and u = z / sqrt(1 + z z); T2 = 2 u u - 1; and T3 = 2 u T2 - u
        + T * kept * (3 * (1 + 5) + 3 + 5)
        + T * (2 * 3 * kept * D + D)  # mixing three degrees, bias
        + T * D * (4 * (1 + 1 + 5 + 1 + 1) + 3 + 3)  # four steps of w, b, SiLU, w, b; sums between
        + T * 2 * D * D  # projection
        + T * D * (4 + 3 + 3)  # gates of four stages, sums of updates and of states
    )
    shared, blocks, size, chosen, rank = 166, 91, 32, 18, 36
    neurons = shared + chosen * size
    ultra = (
        T * (2 * D * rank + 2 * rank * blocks + blocks)  # router, bias
        # comparisons; temperature, softmax and factor of the gates
        + T * (blocks + chosen * (1 + 5 + 1))
        + T * (2 * D * neurons + neurons + 9 * neurons + 2 * neurons * D)
        # a gate for each chosen neuron; the chosen blocks and the shared neurons added to a sum
        + T * (chosen * size + (chosen + 1) * D)
        + T * (D + D)  # bias, gate of the stage
    )
    return {
        "GPT-2 block, dense": around + dense,
        "GPT-2 block, seed": around + seed,
        "GPT-2 block, ultra-25": around + ultra,
        "linear layer": T * (2 * D * D + D),
        "layer norm": norm,
        "GELU": 5 * T * D,
        "softmax": 5 * T * D,  # maximum, subtract, exp, sum, divide
        "residual sum": T * D,
        "attention": attention,
        # two real transforms of 1024 at 5 / 2 n log2 n; 513 complex numbers times a real gain
        "FFT filter": T * (2 * (5 * 1024 * int(log2(1024)) // 2) + 513 * 2),
        "matrix and vector": 2 * D * D,
        "complex matrices": T * D * D * (6 + 2),
        "batched blocks": 4 * T * 2 * 192 * 192,
        "depthwise convolution": 2 * 3 * T * D,
    }


def main() -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    truth = truths()
    installed, missing = {}, []
    for name, (_, package, _) in TOOLS.items():
        try:
            installed[name] = importlib.metadata.version(package)
            with contextlib.redirect_stdout(io.StringIO()):
                importlib.import_module(MODULES.get(package, package))  # once for all processes
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    rows: dict[str, dict[str, Any]] = {}
    for subject, right in truth.items():
        rows[subject] = {"truth": right}
        for name in installed:
            with multiprocessing.get_context("fork").Pool(1) as process:
                rows[subject][name] = process.apply(_run, (name, subject))
        print(subject, rows[subject], flush=True)
    if wrong := [name for name, row in rows.items() if row["undense"] != row["truth"]]:
        raise SystemExit(f"by hand and by undense differ: {', '.join(wrong)}")
    today = datetime.date.today().isoformat()
    result = {
        "created": today,
        "command": "python benchmarks/counters.py",
        "tokens": T,
        "versions": installed,
        "missing": missing,
        "doubled": [name for name, (_, _, macs) in TOOLS.items() if macs],
        "rows": rows,
    }
    write_json(ROOT / "benchmarks" / "results" / f"counters-{today}.json", result)
    _show(rows, [*installed], missing)


def _run(name: str, subject: str) -> int | str:
    """The figure, or what the tool raised; what it prints is dropped."""
    torch.set_num_threads(1)
    model, shape = subjects()[subject]
    silent = io.StringIO()
    try:
        with (
            torch.no_grad(),
            contextlib.redirect_stdout(silent),
            contextlib.redirect_stderr(silent),
        ):
            return TOOLS[name][0](model.eval(), torch.randn(shape))
    except Exception as error:  # a tool that fails on a subject is a finding, not an accident
        return f"{type(error).__name__}: {error}".splitlines()[0][:160]


def _show(rows: dict[str, dict[str, Any]], tools: list[str], missing: list[str]) -> None:
    table = Table("subject", "FLOPs by hand", *tools)
    for subject, figures in rows.items():
        shares = [figures[tool] for tool in tools]
        cells = ["error" if isinstance(n, str) else f"{n / figures['truth']:.2%}" for n in shares]
        table.add_row(subject, f"{figures['truth']:,}", *cells)
    Console(width=180).print(table)
    print("not installed:", ", ".join(missing) or "none")


if __name__ == "__main__":
    main()
