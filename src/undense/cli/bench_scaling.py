"""`undense bench scaling`: how FFNs trained from scratch fare as the model grows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from undense.cli.options import Reading, ReadingOptions
from undense.cli.screen import Screen


@dataclass(frozen=True, kw_only=True)
class Options:
    """Fits loss = a * FLOPs^-b to every arm that several results of bench pareto share, and sets
    paired differences beside one another by width; trains nothing."""

    results: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Result files of undense bench pareto, one a width, alike but for their size."""
    against: str
    """The arm that all others are compared with."""
    renamed: tuple[str, ...] = ()
    """OLD=NEW: an arm that is called OLD in some file and NEW in the others."""
    common: ReadingOptions = field(default_factory=Reading)


def run(options: Options) -> dict[str, Any]:
    """Curves, differences, and the FLOPs for equal loss."""
    from undense.errors import UndenseError
    from undense.pipeline.scaling import bench_scaling

    if wrong := [word for word in options.renamed if word.count("=") != 1]:
        raise UndenseError(f"bench scaling: renamed={', '.join(wrong)}; write OLD=NEW")
    pairs = [word.split("=") for word in options.renamed]
    folder, renamed = (options.common.output_dir, dict(pairs))
    return bench_scaling(options.results, folder, renamed=renamed, against=options.against)


def show(result: dict[str, Any], screen: Screen) -> None:
    """A row an arm, then a row a width of every difference."""
    screen.table(
        ("arm", "b in loss = a * FLOPs^-b", "95 %"),
        [
            (name, f"{arm['exponent']:.4f}", _interval(arm["exponent_ci95"], ".4f"))
            for name, arm in result["arms"].items()
        ],
    )
    rows = []
    for name, found in result["differences"].items():
        rows += [
            (name, f"width {size['width']}", f"{size['mean']:+.4f}", _interval(size["ci95"]))
            for size in found["by_size"]
        ]
        change, interval = (found["per_doubling"], found["per_doubling_ci95"])
        rows.append((name, "more at every doubling", f"{change:+.4f}", _interval(interval)))
        equal = result["equal_loss"][name]
        wanted = f"FLOPs for {equal['loss']:.3f}"
        rows.append((name, wanted, f"{equal['flops_ratio']:.2f}x", _interval(equal["ci95"], ".2f")))
    screen.table((f"against {result['against']}", "", "difference", "95 %"), rows)
    if result["left_out"]:
        screen.line(f"not in every file, or on other tokens: {', '.join(result['left_out'])}")
    for path in result["files"]:
        screen.line(path)


def _interval(bounds: list[float] | None, form: str = "+.4f") -> str:
    return "one seed" if bounds is None else f"{bounds[0]:{form}} to {bounds[1]:{form}}"
