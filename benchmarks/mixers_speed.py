"""How fast each mixer is, module against module, projections included, by length.

    python benchmarks/mixers_speed.py [--lengths 512 2048 …] [--seconds 60]

Forward without gradients, training step (forward and backward), and decoding one token after so
many; d=256, 4 heads, all parts on, fp32, one row, pinned threads, all arms of a length in turns. A
cell that would take longer than `--seconds` is not run: it is extrapolated from the two lengths
before it by the growth of the arm's counted FLOPs, and marked. Goes on where it was interrupted;
writes `benchmarks/results/mixers-speed-DATE.json` and a plot beside it.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import undense.mixers  # noqa: F401  (registers the mixers)
from undense.files import write_json
from undense.measure.timing import environment, interleaved
from undense.mixing import SequenceMixer, build, default, mixers

ROOT = Path(__file__).resolve().parent.parent
DIM = 256
LENGTHS = [512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 200_000]
LONGEST_STEP = 32_768  # a training step beyond it is a question of memory, not of speed


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
        if any(0 in slot.shape for slot in mixer.layout()):
            state = tuple(
                torch.randn(1, *(size or length for size in slot.shape)) if slot.shape else s
                for slot, s in zip(mixer.layout(), state, strict=True)
            )
            state = (torch.full((1,), length), *state[1:])
        else:
            state = mixer(torch.randn(1, length, DIM))[1]

    def run() -> object:
        with torch.no_grad():
            return mixer(token, state)[0]

    return run


KINDS = {"forward": forward, "training step": step, "decode": decode}


def expected(cells: dict[str, Any], mixer: SequenceMixer, length: int) -> float | None:
    """Milliseconds from the longest measured length and the growth in FLOPs; None: nothing yet."""
    known = [int(n) for n, cell in cells.items() if not cell["extrapolated"] and int(n) < length]
    if not known:
        return None
    longest = max(known)
    growth = mixer.cost(1, length).forward / mixer.cost(1, longest).forward
    return cells[str(longest)]["median_ms"] * growth


def measure(result: dict[str, Any], path: Path, lengths: list[int], seconds: float) -> None:
    built = {name: build(DIM, default(name)) for name in mixers()}
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
                result["arms"][kind][name][str(length)] = cell
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
    axes[0].legend(fontsize="small")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--seconds", type=float, default=60, help="the most that one cell may take")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    today = datetime.date.today().isoformat()
    path = ROOT / "benchmarks" / "results" / f"mixers-speed-{today}.json"
    result: dict[str, Any] = {"arms": {}}
    if path.exists():
        result = json.loads(path.read_text())
    result |= {
        "created": today,
        "command": "python benchmarks/mixers_speed.py",
        "environment": environment(),
        "dim": DIM,
    }
    measure(result, path, options.lengths, options.seconds)
    plot(result, path.with_suffix(".png"))
    for kind, arms in result["arms"].items():
        print(kind)
        for name, cells in arms.items():
            print(f"  {name:20}", *(f"{n}: {c['median_ms']:.2f}" for n, c in cells.items()))


if __name__ == "__main__":
    main()
