"""`bench scaling`: how arms of comparisons from scratch grow with the model, and where they would
end up beyond it."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from undense.errors import UndenseError
from undense.files import write_json
from undense.measure.intervals import paired
from undense.measure.regression import Line
from undense.report.scaling_plot import draw_scaling

SIZES = 3  # of which a curve is fitted, at least
BEYOND = (4, 16)  # times the FLOPs of the largest model, for what is called an extrapolation
DRAWN = 40  # points of a curve
_OWN = ("hidden_size", "heads")  # what makes the size; all else must be the same


def bench_scaling(
    files: Sequence[Path], folder: Path | None, *, renamed: Mapping[str, str], against: str
) -> dict[str, Any]:
    """Fit loss = a * FLOPs^-b, the FLOPs those of training the whole model for one token, to every
    arm that all result files of `bench pareto` have, and a line in log2 of the width to its paired
    differences from the arm `against`; over all seeds, with Student's intervals. `renamed`: arms
    that are called otherwise in some file. `left_out` names the arms that not all files have on as
    many tokens. Writes `scaling-DATE.json` and a plot into `folder`.

    A power law without a floor under the loss: three sizes cannot tell the floor, so that what is
    beyond the largest is marked as an extrapolation. Raises `UndenseError` for files of which no
    curve can be made.
    """
    sizes = sorted((_read(file, renamed) for file in files), key=lambda size: size["width"])
    if nobody := [old for old in renamed if not any(old in size["names"] for size in sizes)]:
        raise UndenseError(f"bench scaling: no file has an arm {', '.join(nobody)} to rename")
    arms = _shared(sizes, against)
    others = [arm for arm in arms if arm != against]
    found: dict[str, Any] = {
        "created": datetime.date.today().isoformat(),
        "command": "undense bench scaling "
        + " ".join([*map(str, files), "--against", against])
        + "".join(f" --renamed {old}={new}" for old, new in renamed.items()),
        "against": against,
        "left_out": sorted({arm for size in sizes for arm in size["arms"]} - set(arms)),
        "sizes": [{key: size[key] for key in ("file", "width", "seeds")} for size in sizes],
        "arms": {arm: _curve(arm, sizes) for arm in arms},
        "differences": {arm: _difference(arm, against, sizes) for arm in others},
        "equal_loss": {arm: _equal_loss(arm, against, sizes) for arm in others},
    }
    if folder is None:
        return found | {"files": []}
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"scaling-{found['created']}"
    plot = draw_scaling(found, folder / f"{stem}.png")
    write_json(folder / f"{stem}.json", found)
    return found | {"files": [str(folder / f"{stem}.json"), str(plot)]}


def _read(file: Path, renamed: Mapping[str, str]) -> dict[str, Any]:
    """What a result file says of its size."""
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        base = dict(result["study"]["base"])
        width = int(base["hidden_size"])
        arms = {renamed.get(name, name): arm for name, arm in result["arms"].items()}
        if len(arms) < len(result["arms"]):
            raise UndenseError(f"bench scaling: {file} has two arms of one name after --renamed")
        return {
            "file": str(file),
            "width": width,
            "host": {key: value for key, value in base.items() if key not in _OWN},
            "seeds": result["study"]["seeds"],
            "names": list(result["arms"]),
            "arms": {
                name: {
                    "flops": arm["training_flops_per_step"] * arm["steps"] / arm["tokens"],
                    "tokens": arm["tokens"],
                    "losses": list(arm["losses"]),
                }
                for name, arm in arms.items()
            },
        }
    except OSError as error:
        raise UndenseError(f"bench scaling: {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UndenseError(
            f"bench scaling: {file} is no result of undense bench pareto ({error})"
        ) from error


def _shared(sizes: Sequence[dict[str, Any]], against: str) -> list[str]:
    """The arms that every size has, trained on as many tokens everywhere."""
    widths = [size["width"] for size in sizes]
    if len(set(widths)) < max(SIZES, len(sizes)):
        raise UndenseError(
            f"bench scaling: results of the widths {widths}; give {SIZES} or more, one a width"
        )
    first = sizes[0]
    for other in sizes[1:]:
        if differing := [
            key
            for key in {*first["host"], *other["host"]}
            if first["host"].get(key) != other["host"].get(key)
        ]:
            raise UndenseError(
                f"bench scaling: {first['file']} and {other['file']} differ in"
                f" {', '.join(sorted(differing))}; only {' and '.join(_OWN)} may differ"
            )
    arms = [arm for arm in first["arms"] if all(arm in size["arms"] for size in sizes)]
    # an arm that trains as long as another has its own number of steps at every size
    arms = [arm for arm in arms if len({size["arms"][arm]["tokens"] for size in sizes}) == 1]
    if against not in arms or len(arms) < 2:
        raise UndenseError(
            f"bench scaling: {against!r} and one more arm must be in every file, on as many tokens;"
            f" common are {', '.join(arms) or 'none'}. Use --renamed OLD=NEW where a name differs"
        )
    return arms


def _curve(arm: str, sizes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """loss = a * FLOPs^-b through all seeds of all sizes."""
    line = _line(arm, sizes)
    flops = [size["arms"][arm]["flops"] for size in sizes]
    return {
        "exponent": -line.slope,
        "exponent_ci95": [-line.slope - line.slope_reach, -line.slope + line.slope_reach],
        "points": [{key: size["arms"][arm][key] for key in ("flops", "losses")} for size in sizes],
        "curve": [_on(line, float(f)) for f in np.geomspace(flops[0], flops[-1], DRAWN)],
        "extrapolated": [_on(line, flops[-1] * times) for times in BEYOND],
    }


def _line(arm: str, sizes: Sequence[dict[str, Any]]) -> Line:
    """ln loss over ln FLOPs."""
    points = [
        (math.log(size["arms"][arm]["flops"]), math.log(loss))
        for size in sizes
        for loss in size["arms"][arm]["losses"]
    ]
    return Line.through(*zip(*points, strict=True))


def _on(line: Line, flops: float) -> dict[str, Any]:
    x = math.log(flops)
    low, high = (math.exp(line.at(x) + sign * line.reach(x)) for sign in (-1, 1))
    return {"flops": flops, "loss": math.exp(line.at(x)), "ci95": [low, high]}


def _difference(arm: str, against: str, sizes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By size, seed by seed; and how it changes where the width doubles."""
    by_size = []
    for size in sizes:
        one, other = (size["arms"][name]["losses"] for name in (arm, against))
        by_size.append({"width": size["width"], **paired(one, other)})
    points = [
        (math.log2(found["width"]), difference)
        for found in by_size
        for difference in found["differences"]
    ]
    line = Line.through(*zip(*points, strict=True))
    return {
        "by_size": by_size,
        "per_doubling": line.slope,
        "per_doubling_ci95": [line.slope - line.slope_reach, line.slope + line.slope_reach],
    }


def _equal_loss(arm: str, against: str, sizes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The FLOPs that the arm needs, as a multiple of those of `against`, for the loss which that
    one has at its middle size by its curve. The interval adds the errors of both curves as if they
    were independent: paired seeds make it too wide rather than too narrow."""
    own, other = (_line(name, sizes) for name in (arm, against))
    x = math.log(sizes[len(sizes) // 2]["arms"][against]["flops"])
    height = other.at(x)
    needed = own.where(height)
    reach = math.hypot(own.reach(needed) / own.slope, other.reach(x) / other.slope)
    return {
        "loss": math.exp(height),
        "flops_ratio": math.exp(needed - x),
        "ci95": [math.exp(needed - x - reach), math.exp(needed - x + reach)],
    }
