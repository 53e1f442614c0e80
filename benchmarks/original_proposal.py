"""How much faster ours is than the original proposal's FFN as its description has it: unfused.

    python benchmarks/original_proposal.py [--widths 128 768 2048] [--tokens 1 16 128 1024]

The arm `original_proposal` is derived anew from the description, not from its code: sparsity by
masks. "Token embeddings are transformed using a top-k spectral selection" is a whole FFT, a mask of
the k largest magnitudes, and a whole inverse; "sparse polynomial coefficients" are dense matrices
for each degree times a mask that keeps 30 %; "stacked Linear(1 -> 1) layers with SiLU" are
four steps on every feature; "sparse factor matrices" are two square factors times masks
that keep half, so that what is left of them is the square projection of its cost table; LayerNorm
before and after, gated residual updates between. It is measured like any arm of `undense bench ffn`
beside dense, `seed` (our composition with the same cost table) and `ultra-25`: checked against
fp64, then timed in turn. Goes on where it was interrupted; writes
`benchmarks/results/original-proposal-DATE.json`; exits with 1 where an arm is wrong.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from undense import contract
from undense.contract import DenseFFN, FFNComponent, Statistics, register
from undense.cost import Cost
from undense.errors import UndenseError
from undense.files import write_json
from undense.measure.flops import count_flops
from undense.pipeline.bench_settings import FFNBenchSettings
from undense.pipeline.ffn_bench import bench_ffn
from undense.report.bench_plot import draw_ffn

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "runs" / "original-proposal"
ORIGINAL = "original_proposal"
OURS = ("seed", "ultra-25")


@dataclass(frozen=True, kw_only=True)
class Described(contract.Config):
    """The settings of the description; `k_freq` is for a width of 128 and grows with it."""

    k_freq: int = 20
    poly_degree: int = 3
    poly_keep_ratio: float = 0.3
    micro_steps: int = 4
    factor_keep_ratio: float = 0.5


class Masked(nn.Module):
    """The four stages and two norms; whatever a mask makes zero is computed all the same."""

    polynomial_mask: Tensor
    factor_masks: Tensor

    def __init__(self, dim: int, config: Described) -> None:
        super().__init__()
        self.kept = max(1, config.k_freq * dim // 128)
        self.norm_in, self.norm_out = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.gates = nn.Parameter(torch.full((4,), 0.5))
        self.response = nn.Parameter(torch.randn(dim))
        self.polynomial = nn.Parameter(torch.randn(config.poly_degree, dim, dim) * dim**-0.5)
        self.register_buffer("polynomial_mask", _mask(self.polynomial, config.poly_keep_ratio))
        self.into = nn.Parameter(torch.randn(config.micro_steps, dim))
        self.shift = nn.Parameter(torch.zeros(config.micro_steps, dim))
        self.factors = nn.Parameter(torch.randn(2, dim, dim) * dim**-0.5)
        self.register_buffer("factor_masks", _mask(self.factors, config.factor_keep_ratio))

    def forward(self, x: Tensor) -> Tensor:
        start = self.norm_in(x)
        state = start
        stages = (self._spectral, self._polynomial, self._micro, self._projection)
        for gate, stage in zip(self.gates, stages, strict=True):
            state = state + gate * stage(state)
        return self.norm_out(state - start)

    def _spectral(self, x: Tensor) -> Tensor:
        exact = x if x.dtype == torch.float64 else x.float()  # no FFT in bf16
        spectrum = torch.fft.fft(exact)
        chosen = spectrum.abs().topk(self.kept, -1).indices
        mask = torch.zeros_like(exact).scatter(-1, chosen, 1.0)
        return torch.fft.ifft(spectrum * mask * self.response).real.to(x.dtype)

    def _polynomial(self, x: Tensor) -> Tensor:
        u = torch.tanh(x)
        before, now = torch.ones_like(u), u
        total = torch.zeros_like(u)
        for weight, mask in zip(self.polynomial, self.polynomial_mask, strict=True):
            total = total + functional.linear(now, weight * mask)
            before, now = now, 2 * u * now - before
        return total

    def _micro(self, x: Tensor) -> Tensor:
        state = x
        for into, shift in zip(self.into, self.shift, strict=True):
            state = state + functional.silu(state * into + shift)
        return state - x

    def _projection(self, x: Tensor) -> Tensor:
        for weight, mask in zip(self.factors, self.factor_masks, strict=True):
            x = functional.linear(x, weight * mask)
        return x


def _mask(weight: Tensor, ratio: float) -> Tensor:
    return (torch.rand_like(weight) < ratio).to(weight.dtype)


@register(ORIGINAL)
class OriginalProposal(FFNComponent):
    """y = norm_out(sum of the gated updates of the four stages)."""

    Config = Described
    config: Described

    def __init__(self, dim: int, config: Described) -> None:
        super().__init__(dim, config)
        self.masked = Masked(dim, config)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        return self.masked(x)

    def outputs(self) -> list[nn.Parameter]:
        return list(self.masked.norm_out.parameters())

    def cost(self, tokens: int) -> Cost:
        """What is executed, counted as dispatched: masked zeros at full price."""
        with torch.device("meta"):
            masked = Masked(self.dim, self.config)
            x = torch.zeros(1, tokens, self.dim, requires_grad=True)
        count = count_flops(masked, x, backward=True)
        return Cost(name=ORIGINAL, forward=count.forward, backward=count.backward)

    def start_from(self, dense: DenseFFN, statistics: Statistics) -> None:
        raise UndenseError(f"{ORIGINAL}: it is measured for speed alone and has no start")

    @classmethod
    def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
        raise UndenseError(f"{ORIGINAL}: it has one size")


def comparison(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Time of the original over that of each of ours, and dense over the original."""
    rows = []
    for cell in cells:
        arms = {name: arm for name, arm in cell["arms"].items() if "median_ms" in arm}
        if ORIGINAL not in arms:
            continue
        row = {key: cell[key] for key in ("dim", "dtype", "mode", "tokens", "memory")}
        row["original_over_dense"] = arms[ORIGINAL]["speedup"]
        row["original_flops_less"] = arms[ORIGINAL]["flops_less"]
        theirs = arms[ORIGINAL]["median_ms"]
        row["ours_times_faster"] = {n: theirs / arms[n]["median_ms"] for n in OURS if n in arms}
        rows.append(row)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description="The original proposal's FFN beside ours.")
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 768, 2048])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 16, 128, 1024])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    settings = FFNBenchSettings(
        arms=(*OURS, ORIGINAL, "narrow-25"),
        widths=tuple(options.widths),
        tokens=tuple(options.tokens),
        dtypes=("fp32",),
        rounds=options.rounds,
        threads=options.threads,
    )
    result = bench_ffn(settings, WORK)
    rows = comparison(result["cells"])
    name = f"original-proposal-{result['created']}"
    target = ROOT / "benchmarks" / "results"
    result |= {"command": "python benchmarks/original_proposal.py", "comparison": rows}
    del result["files"]
    write_json(target / f"{name}.json", result)
    draw_ffn(result, target / name)
    for row in rows:
        faster = ", ".join(f"{n} {value:.2f}x" for n, value in row["ours_times_faster"].items())
        print(
            f"d={row['dim']} {row['mode']} {row['tokens']} tokens, {row['memory']}: original"
            f" {row['original_over_dense']:.2f}x dense's speed; than the original, {faster}"
        )
    print("\n".join(result["wrong"]))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
