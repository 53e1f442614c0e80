"""Training steps of whole layers (mixer, SwiGLU, norms, residuals), beside what FLOPs alone allow.

`python benchmarks/mixers_speed.py --blocks 256 512 768`: attention's time over `spectral_layer`'s
for one layer of each width, heads of 64, one row, both arms of a cell in turns; the bound is the
same ratio of the two layers' FLOPs, forward and backward, without norms and residuals (`cost()`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from undense.files import write_json
from undense.measure.timing import interleaved
from undense.models.block import SpectralBlock
from undense.models.config import SpectralConfig

ARMS = ("attention", "spectral_layer")
HEAD = 64


def block_of(arm: str, dim: int) -> SpectralBlock:
    config = SpectralConfig(hidden_size=dim, num_attention_heads=dim // HEAD, mixer=arm)
    return SpectralBlock(config, 0).train()


def flops(block: SpectralBlock, length: int) -> int:
    parts = (block.mixer.cost(1, length), block.ffn.cost(length))
    return sum(part.forward + part.backward for part in parts)


def step(block: SpectralBlock, length: int, dim: int) -> Callable[[], object]:
    x = torch.randn(1, length, dim, requires_grad=True)

    def run() -> object:
        block.zero_grad()
        return block(x)[0].sum().backward()

    return run


def measure_blocks(
    result: dict[str, Any], path: Path, dims: list[int], lengths: list[int], seconds: float
) -> None:
    """Into result["blocks"][dim][length]; a cell that would take longer than `seconds` is left
    out."""
    for dim in dims:
        blocks = {arm: block_of(arm, dim) for arm in ARMS}
        cells = result.setdefault("blocks", {}).setdefault(str(dim), {})
        rate = 0.0  # milliseconds a FLOP of the slower arm
        for length in tqdm(sorted(lengths), desc=f"blocks of {dim}"):
            work = {arm: flops(block, length) for arm, block in blocks.items()}
            if str(length) in cells or rate * max(work.values()) > 1e3 * seconds / 3:
                continue
            arms = {arm: step(block, length, dim) for arm, block in blocks.items()}
            timed = interleaved(arms, rounds=5 if length <= 4096 else 3, warmup=1)
            times = {arm: timing.median_ms for arm, timing in timed.items()}
            rate = max(times[arm] / work[arm] for arm in ARMS)
            cells[str(length)] = {
                "median_ms": times,
                "ratio": times["attention"] / times["spectral_layer"],
                "flop_bound": work["attention"] / work["spectral_layer"],
            }
            write_json(path, result)


def plot_blocks(blocks: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for dim, cells in blocks.items():
        lengths = sorted(map(int, cells))
        ratios, bounds = (
            [cells[str(n)][kind] for n in lengths] for kind in ("ratio", "flop_bound")
        )
        (line,) = axis.loglog(lengths, ratios, marker="o", markersize=3, label=f"d={dim}")
        axis.loglog(lengths, bounds, "--", color=line.get_color())
    axis.axhline(1, color="grey", linewidth=0.5)
    axis.set(
        title="training step of a layer: attention / spectral_layer\n(dashed: their FLOPs)",
        xlabel="tokens",
        ylabel="times",
    )
    axis.legend(fontsize="small")
    figure.savefig(path)
