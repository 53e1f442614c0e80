"""A run folder as the demo writes it: plausible figures of the bundled tiny GPT-2, made up here."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from undense import cost
from undense.cost import Cost

DIM, HIDDEN, LAYERS, CONTEXT, VOCABULARY = 192, 768, 4, 256, 2048
TOKENS = (1, 16, 128, 512)
HASH = "5f" * 32
CONVENTION = "one FFN, one token; a multiply-add is 2 FLOPs; macs: multiply-add 1"


def dense_cost(hidden: int) -> Cost:
    """A dense FFN of `hidden` neurons."""
    return Cost.total(
        "dense",
        cost.linear("up", 1, DIM, hidden, bias=True),
        cost.activation("gelu_tanh", hidden, "gelu_tanh"),
        cost.linear("down", 1, hidden, DIM, bias=True),
    )


def ultra_cost(*, every: bool) -> Cost:
    """The composition: two stages, or all four and both norms."""

    def stage(name: str, inner: Cost) -> Cost:
        return Cost.total(name, inner, cost.gain("gate", 1, DIM, size=1))

    parts = [
        stage("spectral", cost.linear("basis", 1, DIM, 24, bias=False)),
        stage("projection", cost.block_linear("factors", 1, 4, DIM, 1440, bias=True)),
    ]
    if every:
        norm = cost.layer_norm("norm", 1, DIM)
        middle = [
            stage("polynomial", cost.elementwise("terms", 40 * DIM, forward=2)),
            stage("micro", cost.elementwise("steps", 12 * DIM, forward=2)),
        ]
        parts = [norm.named("norm in"), parts[0], *middle, parts[1], norm.named("norm out")]
    return Cost.total("ultra", *parts)


COSTS: dict[str, Cost] = {
    "dense": dense_cost(HIDDEN),
    "ultra-25": ultra_cost(every=False),
    "ultra-all-25": ultra_cost(every=True),
    "narrow-25": dense_cost(HIDDEN // 4),
    "none": Cost(name="none"),
}
LOSSES = {
    "dense": 2.391,
    "ultra-25": 2.428,
    "ultra-all-25": 2.439,
    "narrow-25": 2.446,
    "none": 2.974,
}
TITLES = {
    "dense": "dense base, fine-tuned as long",
    "ultra-25": "UltraEfficientSparseFFN",
    "ultra-all-25": "all four stages",
    "narrow-25": "narrow dense, refit and distilled",
    "none": "no FFN, trained",
}
# Time of one FFN over the dense one's, by tokens.
SLOWNESS = {
    "dense": (1.0, 1.0, 1.0, 1.0),
    "ultra-25": (2.6, 1.7, 0.82, 0.61),
    "ultra-all-25": (6.1, 3.9, 1.9, 1.4),
    "narrow-25": (0.94, 0.62, 0.37, 0.31),
    "none": (0.05, 0.02, 0.01, 0.0),
}
DENSE_FFN_MS = (0.11, 0.29, 1.1, 3.9)
REST_MS = (1.3, 2.0, 6.5, 22.0)

Change = Callable[[dict[str, Any]], None]


def write_run(
    folder: Path, *, seeds: bool = True, losses: Mapping[str, float] | None = None
) -> Path:
    """A complete run in `folder`; `losses` replaces the final loss of some arms."""
    draw = random.Random(0)
    final = {**LOSSES, **(losses or {})}
    arms = {name: arm_metrics(name, final[name], draw) for name in COSTS}
    for name, metrics in arms.items():
        inside = folder / "arms" / name
        inside.mkdir(parents=True)
        dump(inside / "metrics.json", metrics)
        dump(inside / "flops.json", {"convention": CONVENTION, **COSTS[name].to_dict()})
    gap = final["none"] - final["dense"]
    dump(
        folder / "metrics.json",
        {
            "gap_recovered": {name: (final["none"] - final[name]) / gap for name in arms},
            "amdahl": amdahl(arms),
            "ngram": {"unigram": 5.81, "bigram": 4.02, "fivegram": 3.21},
        },
    )
    dump(folder / "run.json", run_values())
    if seeds:
        dump(folder / "seeds.json", seed_values(draw))
    return folder


def run_values() -> dict[str, Any]:
    """`run.json`."""
    return {
        "format": 1,
        "kind": "demo",
        "undense": "0.1.0",
        "model": "the bundled tiny GPT-2",
        "model_note": "trained on the same corpus by the recipe recipes/tiny-gpt2.json",
        "data": {
            "name": "python-stdlib",
            "train_tokens": 4_612_352,
            "eval_tokens": 65_536,
            "sha256": "0c" * 32,
            "python": "3.11.7",
        },
        "seed": 0,
        "settings": {"model": "tiny", "percents": [25], "distill_steps": 80},
        "environment": {
            "cpu": "AMD EPYC 7B13",
            "threads": 2,
            "torch": "2.13.0+cpu",
            "python": "3.11.7",
            "dtype": "float32",
        },
        "batches_hash": HASH,
        "created": "2026-11-22T04:00:00+00:00",
        "command": "undense demo",
        "arms": list(COSTS),
        "reference": "dense",
        "floor": "none",
        "rival": "narrow-25",
        "main": "ultra-25",
        "shape": {
            "dim": DIM,
            "hidden": HIDDEN,
            "gated": False,
            "layers": LAYERS,
            "context": CONTEXT,
        },
        "training": {"distill_tokens": 163_840, "finetune_tokens": 163_840},
    }


def arm_metrics(name: str, loss: float, draw: random.Random) -> dict[str, Any]:
    """`arms/<arm>/metrics.json`."""
    tree = COSTS[name]
    ffn = [DENSE_FFN_MS[i] * SLOWNESS[name][i] for i in range(len(TOKENS))]
    whole = [REST_MS[i] + LAYERS * ffn[i] for i in range(len(TOKENS))]
    distilled = name not in ("dense", "none")
    rest = 786_432 + LAYERS * (294_912 + 196_608 + 3_456)
    other = VOCABULARY * DIM + CONTEXT * DIM + LAYERS * (4 * DIM * DIM + 8 * DIM)
    return {
        "arm": name,
        "title": TITLES[name],
        "ffn": None if name == "dense" else {"component": name.split("-")[0]},
        "loss": loss,
        "perplexity": math.exp(loss),
        "loss_start": loss + (0.02 if name == "dense" else 0.9 if name == "none" else 0.31),
        "loss_distilled": loss + 0.06 if distilled else None,
        "ffn_flops_per_token": tree.forward,
        "ffn_macs_per_token": tree.macs,
        "ffn_share": tree.forward / COSTS["dense"].forward,
        "model_flops_per_token": rest + LAYERS * tree.forward + 0.5,
        "parameters": other + LAYERS * tree.weights,
        "ffn_parameters": LAYERS * tree.weights,
        "forward_ms": timed(whole, draw),
        "ffn_forward_ms": timed(ffn, draw),
        "train_seconds": 31.4 if name == "dense" else 24.2,
        "training_tokens": 327_680,
        "batches_hash": HASH,
        "curve": curve(loss, draw, distilled=distilled),
        "events": ["h.2.mlp diverged at step 41: back to step 40 at half the rate"]
        if name == "ultra-all-25"
        else [],
    }


def timed(values: list[float], draw: random.Random) -> dict[str, Any]:
    """Medians with quartiles a few per cent away."""
    found = {}
    for tokens, value in zip(TOKENS, values, strict=True):
        wide = 0.01 + 0.03 * draw.random()
        found[str(tokens)] = {
            "median": value,
            "iqr": [value * (1 - wide), value * (1 + 1.5 * wide)],
        }
    return found


def curve(loss: float, draw: random.Random, *, distilled: bool) -> list[dict[str, Any]]:
    """Training losses that fall and wobble."""
    points: list[dict[str, Any]] = []
    if distilled:
        points += [
            {"stage": "distill", "step": step, "loss": 0.12 + 0.4 * math.exp(-step / 25)}
            for step in range(1, 81, 4)
        ]
    steps = 80 if distilled else 160
    points += [
        {
            "stage": "finetune",
            "step": step,
            "loss": loss + 0.15 * math.exp(-step / 30) + draw.gauss(0, 0.05),
        }
        for step in range(10, steps + 1, 10)
    ]
    return points


def amdahl(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Ceilings as the pipeline works them out."""
    found = {}
    for tokens in map(str, TOKENS):
        whole = arms["dense"]["forward_ms"][tokens]["median"]
        share = LAYERS * arms["dense"]["ffn_forward_ms"][tokens]["median"] / whole
        found[tokens] = {
            "ffn_time_share": share,
            "bound": 1 / (1 - share),
            "measured": {
                name: whole / metrics["forward_ms"][tokens]["median"]
                for name, metrics in arms.items()
            },
        }
    return found


def seed_values(draw: random.Random, shift: float = 0.0) -> dict[str, Any]:
    """`seeds.json`: five seeds; `shift` moves the main arm's losses."""
    seeds = [0, 1, 2, 3, 4]
    noise = [draw.gauss(0, 0.006) for _ in seeds]
    arms = {}
    for name, loss in LOSSES.items():
        moved = loss + (shift if name == "ultra-25" else 0.0)
        arms[name] = summary([moved + n + draw.gauss(0, 0.002) for n in noise], "losses")
    paired = {}
    for one, other in (("ultra-25", "narrow-25"), ("ultra-25", "dense"), ("narrow-25", "dense")):
        pairs = zip(arms[one]["losses"], arms[other]["losses"], strict=True)
        paired[f"{one} - {other}"] = summary([a - b for a, b in pairs], "differences")
    command = "undense demo --seed N"
    created = "2026-11-20T10:00:00+00:00"
    return {"seeds": seeds, "created": created, "command": command, "arms": arms, "paired": paired}


def summary(values: list[float], key: str) -> dict[str, Any]:
    """Mean and Student's 95 % interval of five values."""
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = 2.776 * deviation / math.sqrt(len(values))
    return {key: values, "mean": mean, "ci95": [mean - half, mean + half]}


def dump(path: Path, values: Any) -> None:
    """`values` as JSON."""
    path.write_text(json.dumps(values), encoding="utf-8")


def edit(path: Path, change: Change) -> None:
    """Read a JSON object, change it, write it back."""
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    dump(path, values)
