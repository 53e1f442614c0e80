"""Single FFNs on a GPU: the presets beside a dense FFN, eager and compiled, at every size.

    python benchmarks/gpu_ffn.py [--seconds 170] [--widths 768 ...] [--tokens 1 ...]
        [--dtypes bf16 fp32] [--arms ultra-25 ...]
    python benchmarks/gpu_ffn.py --plot benchmarks/results/gpu-ffn-DATE.json

Forward without gradients, and a training step (forward and backward). Every arm is first held
against itself in fp64, on the input that is timed; one that is wrong or fails is not timed, its
entry says why, and the script exits with 1. Each size is timed twice, all arms in turns: as replays
of CUDA graphs, by the GPU's clock (cold weights: copies in turn that outgrow the level-2 cache),
and as eager calls, launches included. fp32 products are exact (no TF32). Before that, processes
side by side compile what will be called (`--cold-caches` leaves it out). Sizes that `--seconds`
does not reach are listed as such. Writes `benchmarks/results/gpu-ffn-DATE.json` and plots beside
it, after every width and type. `--device cpu` tries the script, and measures nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gpu_ffn_arms import Candidate, candidates
from gpu_script import command_line, finished, not_reached, parsed
from gpu_timing import Call, captured, failure, free, hardware, replayed_in_turns, surroundings

from undense.files import write_json
from undense.kernels.grouped import on_gpu
from undense.measure.ffn_arms import DENSE, Arm, arms_at
from undense.measure.ffn_bench import COMPILED, Cell, compared
from undense.measure.timing import Timing, interleaved

ARMS = ("ultra-25", "ultra-12", "narrow-25", "block_topk-25", "ultra-small-25", "tensor_factor-25")
ROUNDS = 9


def cells_of(dim: int, dtype: str, tokens: list[int], modes: list[str]) -> list[Cell]:
    return [
        Cell(dim=dim, dtype=dtype, mode=mode, tokens=count, memory="cold")
        for count in tokens
        for mode in modes
    ]


def turned(calls: list[Call]) -> Call:
    """Their next one at every call."""
    place = [0]

    def call() -> object:
        place[0] = (place[0] + 1) % len(calls)
        return calls[place[0]]()

    return call


def measured(found: dict[str, Candidate], size: Cell, device: str) -> list[dict[str, Any]]:
    """Two cells of one size: replays of graphs, and eager calls."""
    there = {name: each.calls for name, each in found.items() if each.calls}
    ways: dict[str, dict[str, Timing]] = {"eager": {}}
    problems: dict[str, str] = {}
    if device == "cuda":
        graphs: dict[str, tuple[Call, int]] = {}
        for name, calls in there.items():
            try:
                graphs[name] = (captured(calls), len(calls))
            except Exception as error:
                problems[name] = failure(error)
                print(f"{size} {name}, capture: {problems[name]}", file=sys.stderr)
        ways = {"graph": replayed_in_turns(graphs, rounds=ROUNDS) if graphs else {}} | ways
    calls = {name: turned(calls) for name, calls in there.items()}
    ways["eager"] = interleaved(calls, rounds=ROUNDS, warmup=2) if calls else {}
    cells = []
    for way, times in ways.items():
        entries = {name: dict(each.entry) for name, each in found.items()}
        for name, problem in problems.items():
            if way == "graph":
                entries[name] |= {"status": "failed: not captured", "error": problem}
        cells.append(vars(size) | {"how": way} | compared(entries, times))
    return cells


def cell(arms: list[Arm], size: Cell, device: str, *, only_compile: bool) -> list[dict[str, Any]]:
    """All arms at one size. What stops them all is an entry too."""
    try:
        found = candidates(arms, size, device)
        if only_compile:
            return []
        return measured(found, size, device)
    except Exception as error:
        print(f"{size}: {failure(error)}", file=sys.stderr)
        return [vars(size) | {"status": "failed", "error": failure(error), "arms": {}}]
    finally:
        free(device)


def compile_beforehand(options: argparse.Namespace) -> float:
    """A process for each width and type: compilers keep what they made on disk. Seconds."""
    start = time.perf_counter()
    sizes = [(dim, dtype) for dim in options.widths for dtype in options.dtypes]
    command = [sys.executable, str(Path(__file__).resolve()), "--only-compile"]
    lists = ["--tokens", *map(str, options.tokens), "--arms", *options.arms]
    running = [
        subprocess.Popen(
            [*command, *lists, "--widths", str(dim), "--dtypes", dtype, "--seconds", "60"],
            stdout=subprocess.DEVNULL,
            env=os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "2"},
        )
        for dim, dtype in sizes
    ]
    codes = [each.wait() for each in running]
    print(f"compiled beforehand in {time.perf_counter() - start:.0f} s, exit codes {codes}")
    return time.perf_counter() - start


def plot(path: Path) -> None:
    """From the result's file alone."""
    from undense.report.bench_plot import draw_ffn

    result = json.loads(path.read_text(encoding="utf-8"))
    ways = {each["how"] for each in result["cells"] if "how" in each}
    way = "graph" if "graph" in ways else "eager"
    there = [each for each in result["cells"] if each.get("how") == way]
    for drawn in draw_ffn(result | {"cells": there}, path.with_suffix("")):
        print(drawn)


def table(result: dict[str, Any]) -> int:
    """Print it; how many arms were wrong or failed."""
    print("| width | tokens | type | mode | how | dense ms | times faster |\n|" + "---|" * 7)
    bad = 0
    for each in result["cells"]:
        if "how" not in each:
            bad += each["status"].startswith("failed")
            continue
        arms = each["arms"]
        words = []
        for name, entry in arms.items():
            if entry["status"].startswith(("wrong", "failed")):
                bad += 1
                words.append(f"{name} {entry['status']}")
            elif "speedup" in entry and name != each["yardstick"]:
                less = entry["flops_less"]
                promised = f" of {less:.1f}" if less and name not in (DENSE, COMPILED) else ""
                words.append(f"{name} {entry['speedup']:.2f}{promised}")
        dense = arms[each["yardstick"]]["median_ms"] if each["yardstick"] else float("nan")
        size = f"| {each['dim']} | {each['tokens']} | {each['dtype']} | {each['mode']}"
        print(f"{size} | {each['how']} | {dense:.4f} ({each['yardstick']}) | {', '.join(words)} |")
    return bad


def parsed_options() -> argparse.Namespace:
    parser = command_line(__doc__, 170)
    parser.add_argument("--widths", type=int, nargs="+", default=[768, 2048, 4096])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 16, 128, 1024, 8192])
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--cold-caches", action="store_true")
    parser.add_argument("--only-compile", action="store_true", help=argparse.SUPPRESS)
    return parsed(parser)


def main() -> int:
    options = parsed_options()
    if options.plot is not None:
        plot(options.plot)
        return 0
    start = time.perf_counter()
    device, today = options.device, datetime.date.today().isoformat()
    result: dict[str, Any] = {"created": today, "command": "python benchmarks/gpu_ffn.py"}
    if not options.only_compile:
        result |= {"environment": surroundings(device), "hardware": hardware(device)}
        result["kernels"] = on_gpu()._asdict()
        print(f"{result['hardware']}, kernels: {result['kernels']}")
        if device == "cuda" and not options.cold_caches:
            result["compiled_beforehand_seconds"] = compile_beforehand(options)
    modes = ["forward", "training"]
    result["settings"] = {
        "arms": options.arms,
        "widths": options.widths,
        "tokens": options.tokens,
        "dtypes": options.dtypes,
        "modes": modes,
        "rounds": ROUNDS,
        "seconds": options.seconds,
    }
    result["cells"] = []
    path = options.output_dir / f"gpu-ffn-{today}.json"
    for dtype in options.dtypes:
        for dim in options.widths:
            arms = arms_at(options.arms, dim, gated=False)
            for size in cells_of(dim, dtype, options.tokens, modes):
                if time.perf_counter() - start > options.seconds:
                    result["cells"].append(vars(size) | not_reached(options.seconds))
                    continue
                only = options.only_compile
                result["cells"] += cell(arms, size, device, only_compile=only)
            if not options.only_compile:
                result["seconds"] = time.perf_counter() - start
                write_json(path, result)
    if options.only_compile:
        return 0
    bad = table(result)
    return finished(result, path, bad, plot)


if __name__ == "__main__":
    sys.exit(main())
