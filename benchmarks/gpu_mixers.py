"""Sequence mixers on a GPU by length: attention (PyTorch's fused kernels), spectral, all parts on.

    python benchmarks/gpu_mixers.py [--seconds 110] [--lengths 1024 ...] [--dtypes bf16 fp32]
    python benchmarks/gpu_mixers.py --plot benchmarks/results/gpu-mixers-DATE.json

Module against module, projections included, one row: d=256 with 4 heads, d=1024 with 16; forward
without gradients and a training step (forward and backward). Before it is timed every arm is held
against itself in fp64 on the timed input (`gpu_mixers_arms.py`); one that is wrong or fails is not
timed, its entry says why, and the script exits with 1. All arms of a size in turns: as replays of
CUDA graphs, by the GPU's clock, and as eager calls, launches included. An arm whose call takes
longer than `ONCE_MS` is timed once, eagerly (rounds: 1). The peak is the most memory of an eager
call above what was in use. fp32 products are exact (no TF32). Sizes that `--seconds` does not reach
are listed as such. Writes `benchmarks/results/gpu-mixers-DATE.json` and a plot beside it, after
every size. `--device cpu` tries the script, and measures nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from pathlib import Path
from typing import Any

from gpu_mixers_arms import ARMS, Candidate, Size, candidates
from gpu_script import command_line, finished, not_reached, parsed
from gpu_timing import (
    Call,
    captured,
    failure,
    free,
    hardware,
    once_ms,
    peak_bytes,
    replayed_in_turns,
    surroundings,
)

from undense.files import write_json
from undense.measure.ratios import realised, speedup, times_less
from undense.measure.timing import Timing, interleaved

WIDTHS = {256: 4, 1024: 16}  # features and heads
LENGTHS = [1024, 4096, 16_384, 65_536, 200_000]
LONGEST_STEP = 65_536
STANDARD = "attention"
ONCE_MS = 700.0
ROUNDS, LEAST_ROUNDS, CELL_MS = 9, 3, 3000.0


def measured(found: dict[str, Candidate], size: Size, device: str) -> list[dict[str, Any]]:
    """Two cells of one size: replays of graphs, and eager calls."""
    arms: dict[str, Call] = {}
    expected = 0.0
    for name, each in found.items():
        if each.call is None:
            continue
        try:
            each.entry["peak_bytes"] = peak_bytes(each.call, device)
            once = once_ms(each.call, device)
        except Exception as error:
            each.entry |= {"status": "failed", "error": failure(error)}
            continue
        if once > ONCE_MS:
            each.entry |= {"median_ms": once, "rounds": 1}
        else:
            arms[name], expected = each.call, expected + once
    rounds = max(LEAST_ROUNDS, min(ROUNDS, int(CELL_MS / max(expected, 1e-3))))
    graphs: dict[str, tuple[Call, int]] = {}
    problems: dict[str, str] = {}
    for name, call in arms.items() if device == "cuda" else ():
        try:
            graphs[name] = (captured([call]), 1)
        except Exception as error:
            problems[name] = failure(error)
            print(f"{size} {name}, capture: {problems[name]}", file=sys.stderr)
    cells = []
    if device == "cuda":
        times = replayed_in_turns(graphs, rounds=rounds) if graphs else {}
        cells.append(compared(found, size, "graph", times, problems))
    graphs.clear()
    times = interleaved(arms, rounds=rounds, warmup=1) if arms else {}
    cells.append(compared(found, size, "eager", times, {}))
    return cells


def compared(
    found: dict[str, Candidate],
    size: Size,
    how: str,
    times: dict[str, Timing],
    problems: dict[str, str],
) -> dict[str, Any]:
    """A cell: the arms with their times, and with ratios to attention's."""
    entries = {name: dict(each.entry) for name, each in found.items()}
    for name, problem in problems.items():
        entries[name] |= {"status": "failed: not captured", "error": problem}
    for name, timing in times.items():
        entries[name] |= timing.to_dict()
    standard = entries.get(STANDARD, {})
    for name, entry in entries.items():
        if "median_ms" not in entry or "median_ms" not in standard:
            continue
        ratio: dict[str, Any] = {"speedup": standard["median_ms"] / entry["median_ms"]}
        if name in times and STANDARD in times:
            ratio = speedup(times[STANDARD], times[name])
        less = times_less(standard["flops"], entry["flops"])
        entry |= ratio | {"flops_less": less, "realised": realised(ratio["speedup"], less)}
    return vars(size) | {"how": how, "arms": entries}


def cell(names: list[str], size: Size, device: str) -> list[dict[str, Any]]:
    """All arms at one size. What stops them all is an entry too."""
    try:
        return measured(candidates(names, size, device), size, device)
    except Exception as error:
        print(f"{size}: {failure(error)}", file=sys.stderr)
        return [vars(size) | {"status": "failed", "error": failure(error), "arms": {}}]
    finally:
        free(device)


def plot(path: Path) -> None:
    """From the result's file alone: how many times faster than attention, by length."""
    import matplotlib
    from matplotlib.figure import Figure

    from undense.report.style import INK, MAIN, OTHERS, REFERENCE, SETTINGS

    result = json.loads(path.read_text(encoding="utf-8"))
    there = [each for each in result["cells"] if "how" in each]
    way = "graph" if any(each["how"] == "graph" for each in there) else "eager"
    there = [each for each in there if each["how"] == way]
    widths, modes = sorted({c["dim"] for c in there}), ["forward", "training"]
    looks = dict(zip([n for n in result["arms"] if n != STANDARD], (MAIN, *OTHERS), strict=False))
    settings: Any = SETTINGS | {"figure.facecolor": "white", "axes.facecolor": "white"}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(11, 1 + 3.4 * len(widths)), layout="constrained")
        panels = figure.subplots(len(widths), 2, squeeze=False)
        for row, dim in zip(panels, widths, strict=True):
            for axes, mode in zip(row, modes, strict=True):
                for name, (color, marker) in looks.items():
                    for dtype, line in (("bf16", "-"), ("fp32", (0, (1, 2)))):
                        points = [
                            (c["length"], c["arms"][name]["speedup"])
                            for c in sorted(there, key=lambda c: c["length"])
                            if (c["dim"], c["mode"], c["dtype"]) == (dim, mode, dtype)
                            and "speedup" in c["arms"].get(name, {})
                        ]
                        if points:
                            at, ratio = zip(*points, strict=True)
                            axes.plot(
                                at, ratio, marker, color=color, ls=line, label=f"{name}, {dtype}"
                            )
                axes.axhline(1, color=REFERENCE[0], lw=1.6)
                axes.set_xscale("log", base=2)
                axes.set_yscale("log")
                axes.set(title=f"d = {dim}, {mode}", xlabel="tokens", ylabel="times faster")
        panels[0][0].legend(fontsize="small")
        machine = result["environment"]
        figure.suptitle(
            f"Mixers beside fused attention ({way}): below 1 is slower\n"
            f"{result['hardware']}, torch {machine['torch']}, {result['created']}",
            color=INK, fontsize=10, x=0.01, ha="left",
        )  # fmt: skip
        figure.savefig(path.with_suffix(".png"), dpi=120)
    print(path.with_suffix(".png"))


def table(result: dict[str, Any]) -> int:
    """Print it; how many arms were wrong or failed."""
    print("| d | type | mode | tokens | how | attention ms (MB) | times faster (MB) |")
    print("|" + "---|" * 7)
    bad = 0
    for each in result["cells"]:
        if "how" not in each:
            bad += each["status"].startswith("failed")
            continue
        words = []
        for name, entry in each["arms"].items():
            if entry["status"].startswith(("wrong", "failed")):
                bad += 1
                words.append(f"{name} {entry['status']}")
            elif "speedup" in entry:
                shown = entry["median_ms"] if name == STANDARD else entry["speedup"]
                memory = f"({(entry['peak_bytes'] or 0) / 1e6:.0f})"
                words.append(f"{'' if name == STANDARD else name} {shown:.3g} {memory}")
        size = f"| {each['dim']} | {each['dtype']} | {each['mode']} | {each['length']}"
        print(f"{size} | {each['how']} | {words[0] if words else ''} | {', '.join(words[1:])} |")
    return bad


def parsed_options() -> argparse.Namespace:
    parser = command_line(__doc__, 110)
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS), choices=WIDTHS)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    return parsed(parser)


def main() -> int:
    options = parsed_options()
    if options.plot is not None:
        plot(options.plot)
        return 0
    start = time.perf_counter()
    device, today = options.device, datetime.date.today().isoformat()
    path = options.output_dir / f"gpu-mixers-{today}.json"
    result: dict[str, Any] = {
        "created": today,
        "command": "python benchmarks/gpu_mixers.py",
        "environment": surroundings(device),
        "hardware": hardware(device),
        "arms": options.arms,
        "cells": [],
    }
    print(result["hardware"])
    for length in options.lengths:  # the long ones last: what time does not reach is theirs
        for dtype in options.dtypes:
            for dim in options.widths:
                for mode in ("forward", "training"):
                    if mode == "training" and length > LONGEST_STEP:
                        continue
                    size = Size(dim, WIDTHS[dim], dtype, mode, length)
                    if time.perf_counter() - start > options.seconds:
                        result["cells"].append(vars(size) | not_reached(options.seconds))
                    else:
                        result["cells"] += cell(options.arms, size, device)
                    result["seconds"] = time.perf_counter() - start
                    write_json(path, result)
    bad = table(result)
    return finished(result, path, bad, plot)


if __name__ == "__main__":
    sys.exit(main())
