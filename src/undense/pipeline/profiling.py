"""Profiling a whole model: share of the time beside share of the FLOPs, part by part."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from undense.contract import FFNComponent
from undense.errors import UndenseError
from undense.files import write_json
from undense.measure.count import Count
from undense.measure.energy import read_energy
from undense.measure.flops import count_flops
from undense.measure.profile import profile
from undense.measure.timing import environment
from undense.pipeline.live import blocks_of
from undense.pipeline.load import load_model

PARTS = ("attention", "ffn", "norms", "head", "embeddings")
FILES = ("profile.json", "trace.json", "profile.png")


@dataclass(frozen=True, kw_only=True)
class ProfileSettings:
    """A forward pass over `batch` sequences of `tokens` tokens, `rounds` times, without a cache."""

    model: str
    tokens: int = 128
    batch: int = 1
    rounds: int = 20
    warmup: int = 3
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("tokens", "batch", "rounds"):
            if getattr(self, name) < 1:
                raise UndenseError(f"profile: {name}={getattr(self, name)} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A module that is timed: `part` of the model; `name` of the kind, the same in every layer;
    `inner`: it lies inside another one."""

    path: str
    part: str
    name: str
    inner: bool


def profile_model(settings: ProfileSettings, folder: Path | None = None) -> dict[str, Any]:
    """Figures as plain JSON values; with `folder`, also `profile.json`, `trace.json` (Chrome) and
    `profile.png` there."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(settings.model)
    model.to(torch.device(device))  # type: ignore[arg-type]
    places = {place.path: place for place in places_of(model)}
    size = (settings.batch, settings.tokens)
    ids = torch.randint(model.config.vocab_size, size, device=device)

    def call() -> object:
        with torch.no_grad():
            return model(input_ids=ids, use_cache=False)

    count = count_flops(call, model=model)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    before = read_energy()
    timed = profile(
        call,
        {path: model.get_submodule(path) for path in places},
        rounds=settings.rounds,
        warmup=settings.warmup,
        trace=None if folder is None else folder / "trace.json",
    )
    after = read_energy()
    passes = 2 * settings.rounds + settings.warmup + (folder is not None)
    tokens = settings.batch * settings.tokens
    joules = {source: used / (passes * tokens) for source, used in after.since(before).items()}
    result: dict[str, Any] = {
        **asdict(settings),
        "device": timed.device,
        "environment": environment(),
        "milliseconds": timed.plain_ms,
        "hook_overhead": timed.overhead,
        "tokens_per_s": 1e3 * tokens / timed.plain_ms,
        "flops": count.forward,
        "gflops_per_s": count.forward / timed.plain_ms / 1e6,
        "uncounted": count.uncounted,
        "peak_mb": timed.peak_mb,
        "energy": {"joules_per_token": joules, "missing": after.missing},
        **_rows(places, timed.ranges_ms, timed.watched_ms, count),
    }
    if folder is not None:
        from undense.report.profile_plot import draw

        write_json(folder / "profile.json", result)
        draw(result, folder / "profile.png")
    return result


def places_of(model: PreTrainedModel) -> list[Place]:
    """Attention, FFNs, norms, head and embeddings, and what attention and FFNs are made of."""
    ffns = {id(block.module) for block in blocks_of(model)}
    head = model.get_output_embeddings()
    found: list[Place] = []
    for path, module in model.named_modules():
        around = next((p for p in found if not p.inner and path.startswith(f"{p.path}.")), None)
        kind = _general(path)
        if around is not None:
            if _is_piece(module):
                inside = _general(path.removeprefix(f"{around.path}."))
                found.append(Place(path=path, part=around.part, name=inside, inner=True))
            continue
        part = _part(module, id(module) in ffns, module is head)
        if part is not None:
            found.append(Place(path=path, part=part, name=kind, inner=False))
    return found


def _part(module: nn.Module, ffn: bool, head: bool) -> str | None:
    name = type(module).__name__
    if ffn:
        return "ffn"
    if head:
        return "head"
    if name.endswith("Attention"):
        return "attention"
    if "Norm" in name:
        return "norms"
    return "embeddings" if isinstance(module, nn.Embedding) or "Rotary" in name else None


def _is_piece(module: nn.Module) -> bool:
    """A component, or a module without parts of its own that computes something."""
    if isinstance(module, FFNComponent):
        return True
    leaf = next(module.children(), None) is None
    return leaf and not isinstance(module, (nn.Dropout, nn.ParameterDict, nn.Identity))


def _general(path: str) -> str:
    """The path without the number of its layer."""
    return ".".join("*" if piece.isdigit() else piece for piece in path.split("."))


def _rows(
    places: dict[str, Place], times: dict[str, float], whole_ms: float, count: Count
) -> dict[str, Any]:
    """Time and FLOPs of each part of the model (they sum to the whole, with the rest) and of each
    kind of piece inside them."""
    parts = {part: [0.0, 0] for part in PARTS}
    pieces: dict[tuple[str, str], list[float]] = {}
    for path, place in places.items():
        if path not in times:
            continue
        milliseconds = times[path]
        flops = _flops(count, path)
        if not place.inner:
            parts[place.part][0] += milliseconds
            parts[place.part][1] += flops
        else:
            row = pieces.setdefault((place.part, place.name), [0.0, 0, 0])
            row[0] += milliseconds
            row[1] += flops
            row[2] += 1
    parts["rest"] = [
        whole_ms - sum(ms for ms, _ in parts.values()),
        count.forward - sum(flops for _, flops in parts.values()),
    ]

    def share(milliseconds: float, flops: float) -> dict[str, float]:
        return {
            "milliseconds": milliseconds,
            "flops": int(flops),
            "time_share": milliseconds / whole_ms,
            "flops_share": flops / count.forward,
        }

    return {
        "parts": [{"part": name, **share(*row)} for name, row in parts.items()],
        "components": [
            {"part": part, "component": name, "calls": int(row[2]), **share(row[0], row[1])}
            for (part, name), row in pieces.items()
        ],
    }


def _flops(count: Count, path: str) -> int:
    try:
        return count.tree.part(path).forward
    except KeyError:  # called, and nothing dispatched in it
        return 0
