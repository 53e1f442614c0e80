"""How fast each mixer is, module against module, projections included, by length.

    python benchmarks/mixers_speed.py [--lengths 512 2048 …] [--seconds 60] [--arms …]
        [--blocks 256 512 768]

Forward without gradients, training step (forward and backward), decoding one token after so many,
and the peak memory of a forward above what was in use; d=256, 4 heads, fp32, one row, pinned
threads, all arms of a length in turns. `all_parts` is `spectral_layer` with every part on. Beside
our mixers stand those of transformers (`peers.py`: Mamba-2, gated DeltaNet, xLSTM, lightning
attention, RWKV-4, their own CPU paths), as wide as makes their parameters those of
`spectral_layer`. A cell that would take longer than `--seconds` is not run: it is extrapolated from
the longest length measured by the growth of the arm's counted FLOPs (a peer's: of the length), and
marked. `--blocks`: nothing but training steps of whole layers of these widths, beside the bound
that their FLOPs set (`block_steps.py`). Goes on where it was interrupted; writes
`benchmarks/results/mixers-speed-DATE.json` and a plot beside it.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from block_steps import measure_blocks, plot_blocks
from ours import NAMES, ours
from peak_memory import peak_megabytes
from peers import PEERS, Peer, matched, parameters_of
from tqdm import tqdm

from undense.files import write_json
from undense.measure.timing import environment, interleaved
from undense.mixing import SequenceMixer, build

ROOT = Path(__file__).resolve().parent.parent
DIM = 256
ARMS = [*NAMES, *PEERS]
LENGTHS = [512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 200_000]
LONGEST_STEP = 32_768  # a training step beyond it is a question of memory, not of speed
TOKENS = 64  # decoded in a row, so that what is done once a chunk is counted once
PREFILL = 2048  # tokens before a peer's decoding: its state does not grow, and its prefill is slow


def forward(mixer: SequenceMixer, length: int) -> Callable[[], object]:
    x = torch.randn(1, length, DIM)

    def run() -> object:
        with torch.no_grad():
            return mixer(x)[0]

    return run


def step(mixer: SequenceMixer, length: int) -> Callable[[], object]:
    x = torch.randn(1, length, DIM, requires_grad=True)

    def run() -> object:
        mixer.zero_grad()
        return mixer(x)[0].sum().backward()

    return run


def decode(mixer: SequenceMixer, length: int) -> Callable[[], object]:
    token = torch.randn(1, 1, DIM)
    state = mixer.initial_state(1)
    with torch.no_grad():
        # the state after so many tokens, without paying attention's square for them
        if any(slot.grows for slot in mixer.layout()):
            state = tuple(
                torch.randn(1, *slot.sizes(length)) if slot.shape else s
                for slot, s in zip(mixer.layout(), state, strict=True)
            )
            state = (torch.full((1,), length), *state[1:])
        elif isinstance(mixer, Peer):
            state = mixer(torch.randn(1, min(length, PREFILL), DIM))[1]
        else:
            state = mixer(torch.randn(1, length, DIM))[1]

    def run() -> object:
        after = state
        with torch.no_grad():
            for _ in range(TOKENS):
                _, after = mixer(token, after)
        return after

    return run


KINDS = {"forward": forward, "training step": step, "decode": decode}


def expected(cells: dict[str, Any], mixer: SequenceMixer, length: int) -> float | None:
    """Milliseconds from the longest measured length and the growth in FLOPs; None: nothing yet."""
    known = [int(n) for n, cell in cells.items() if not cell["extrapolated"] and int(n) < length]
    if not known:
        return None
    longest = max(known)
    growth = length / longest
    if not isinstance(mixer, Peer):
        growth = mixer.cost(1, length).forward / mixer.cost(1, longest).forward
    return cells[str(longest)]["median_ms"] * growth


def arms_of(names: list[str]) -> dict[str, SequenceMixer]:
    """Our mixers with their defaults, peers as large as `spectral_layer`."""
    size = parameters_of(build(DIM, ours("spectral_layer")))
    return {
        name: build(DIM, matched(name, DIM, 4, size) if name in PEERS else ours(name))
        for name in names
    }


def measure(
    result: dict[str, Any], path: Path, lengths: list[int], seconds: float, names: list[str]
) -> None:
    built = arms_of(names)
    sizes = result.setdefault("parameters", {})
    sizes |= {name: parameters_of(mixer) for name, mixer in built.items()}
    todo = [(kind, length) for kind in KINDS for length in lengths]
    for kind, length in tqdm(todo, desc="cells"):
        if kind == "training step" and length > LONGEST_STEP:
            continue
        arms: dict[str, Callable[[], object]] = {}
        for name, mixer in built.items():
            cells = result["arms"].setdefault(kind, {}).setdefault(name, {})
            if str(length) in cells:
                continue
            guess = expected(cells, mixer, length) if kind != "decode" else None
            if guess is not None and guess > 1e3 * seconds / 3:
                cells[str(length)] = {"median_ms": guess, "extrapolated": True}
                continue
            arms[name] = KINDS[kind](mixer.train(kind == "training step"), length)
        if arms:
            rounds = 9 if length <= 4096 else 3 if length <= 32_768 else 2
            for name, timing in interleaved(arms, rounds=rounds, warmup=1).items():
                cell = timing.to_dict() | {"extrapolated": False}
                if kind == "decode":
                    cell["median_ms"] = timing.median_ms / TOKENS
                    cell["iqr_ms"] = [ms / TOKENS for ms in timing.iqr_ms]
                result["arms"][kind][name][str(length)] = cell
                if kind == "forward":
                    megabytes = peak_megabytes(forward(built[name].eval(), length))
                    result["peak_mb"].setdefault(name, {})[str(length)] = megabytes
        write_json(path, result)


def plot(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(KINDS), figsize=(13, 4), layout="constrained")
    for axis, (kind, arms) in zip(axes, result["arms"].items(), strict=False):
        for name, cells in arms.items():
            points = sorted((int(n), cell) for n, cell in cells.items())
            (line,) = axis.loglog(
                [n for n, c in points if not c["extrapolated"]],
                [c["median_ms"] for _, c in points if not c["extrapolated"]],
                marker="o",
                markersize=3,
                label=name,
            )
            guessed = [(n, c["median_ms"]) for n, c in points if c["extrapolated"]]
            axis.loglog(
                *zip(*guessed, strict=True), "x", color=line.get_color()
            ) if guessed else None
        axis.set(title=f"{kind} (x: extrapolated)", xlabel="tokens", ylabel="ms")
    figure.legend(
        *axes[0].get_legend_handles_labels(), fontsize="small", loc="outside right center"
    )
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--seconds", type=float, default=60, help="the most that one cell may take")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--blocks", type=int, nargs="+", default=[], help="widths of layers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    today = datetime.date.today().isoformat()
    path = ROOT / "benchmarks" / "results" / f"mixers-speed-{today}.json"
    result: dict[str, Any] = {"arms": {}, "peak_mb": {}}
    if path.exists():
        result = json.loads(path.read_text())
    result.setdefault("peak_mb", {})
    result |= {
        "created": today,
        "command": "python benchmarks/mixers_speed.py",
        "environment": environment(),
        "dim": DIM,
    }
    if options.blocks:
        measure_blocks(result, path, options.blocks, options.lengths, options.seconds)
        plot_blocks(result["blocks"], path.with_name(path.stem + "-blocks.png"))
        for dim, cells in result["blocks"].items():
            found = (f"{n}: {c['ratio']:.2f} of {c['flop_bound']:.2f}" for n, c in cells.items())
            print(f"d={dim}, times attention's speed of what FLOPs allow:", *found)
        return
    measure(result, path, options.lengths, options.seconds, options.arms)
    plot(result, path.with_suffix(".png"))
    for kind, arms in result["arms"].items():
        print(kind)
        for name, cells in arms.items():
            print(f"  {name:20}", *(f"{n}: {c['median_ms']:.2f}" for n, c in cells.items()))
    print("peak memory of a forward, MB")
    for name, cells in result["peak_mb"].items():
        print(f"  {name:20}", *(f"{n}: {mb:.0f}" for n, mb in cells.items()))


if __name__ == "__main__":
    main()
