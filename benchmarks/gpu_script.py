"""What the scripts for a GPU share: the command line, what stands in a result first, the end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from undense.measure.ffn_arms import TORCH_DTYPES

RESULTS = Path(__file__).resolve().parent / "results"


def command_line(about: str | None, seconds: float) -> argparse.ArgumentParser:
    """The options that all of them have."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--dtypes", nargs="+", default=["bf16", "fp32"], choices=TORCH_DTYPES)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--output-dir", type=Path, default=RESULTS)
    parser.add_argument("--plot", type=Path, default=None, help="draw a result, measure nothing")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Ends the script where a GPU is needed and there is none."""
    options = parser.parse_args()
    if options.plot is None and options.device == "cuda" and not torch.cuda.is_available():
        sys.exit(f"{parser.prog}: torch sees no GPU; run it where there is one")
    if options.plot is None:
        options.output_dir.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("highest")
    return options


def not_reached(seconds: float) -> dict[str, Any]:
    """Of a cell that there was no time for."""
    return {"status": f"not reached within {seconds:g} s", "arms": {}}


def finished(result: dict[str, Any], path: Path, bad: int, plot: Callable[[Path], None]) -> int:
    """Say where the result is and draw it; the exit code."""
    print(f"{path}: {len(result['cells'])} cells in {result['seconds']:.0f} s; {bad} arms failed")
    try:
        plot(path)
    except ImportError as error:
        print(f"no plot here ({error}): {result['command']} --plot {path}")
    return 1 if bad else 0
