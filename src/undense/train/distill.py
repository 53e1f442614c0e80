"""Layer-wise distillation: every replacement learns its own dense FFN, all of them at once.

The student runs forward on its own stream; at each site the target is what the old FFN would have
put out for that very input, so errors of earlier layers are seen and no second model is in memory.
A site is trained while the stream passes it: its output is computed once, the gradient ends at its
input, and one site's memory is in use at a time. Each site has its own loss, optimizer and step
size, and goes back to its last good state by itself if it diverges. Related: LoLCATs,
https://arxiv.org/abs/2410.10254 (attention).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from undense.errors import UndenseError
from undense.files import whole
from undense.train.settings import DistillSettings
from undense.train.tokens import BlockDataset


@dataclass(frozen=True, kw_only=True)
class DistillResult:
    """`curve`: (step, mean relative error over the sites). `errors`: last by site. `events`: what
    was reverted, in words."""

    curve: list[tuple[int, float]]
    errors: dict[str, float]
    events: list[str]


@dataclass(kw_only=True)
class _Site:
    """One replacement in training beside the FFN that it replaces."""

    name: str
    student: nn.Module
    teacher: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    factor: float = 1.0
    smooth: float | None = None
    best: float = math.inf
    good: dict[str, Any] = field(default_factory=dict)
    pending: dict[str, Any] = field(default_factory=dict)

    def snapshot(self, step: int) -> None:
        """Keep this state; the one kept before it has been judged by later losses, and is good."""
        fresh = {
            "step": step,
            "student": deepcopy(self.student.state_dict()),
            "optimizer": deepcopy(self.optimizer.state_dict()),
        }
        self.good = self.pending or fresh
        self.pending = fresh

    def revert(self) -> None:
        self.student.load_state_dict(self.good["student"])
        self.optimizer.load_state_dict(self.good["optimizer"])
        self.pending = self.good
        self.smooth = None
        self.factor /= 2


def distill(
    model: nn.Module,
    pairs: Mapping[str, tuple[nn.Module, Callable[[Tensor], Tensor]]],
    dataset: BlockDataset,
    settings: DistillSettings,
    *,
    folder: Path | None = None,
    watch: Callable[[int], None] | None = None,
) -> DistillResult:
    """Train the replacement of each pair (replacement, dense FFN) in place.

    `model` carries the student's stream through all replacements: of a language model the base
    model does, and its head would be computed for nothing.
    The loss of a site is its relative squared error, mean (y - t)^2 / variance of t. With `folder`,
    the state is kept in `folder/distill.pt` and a later call with the same settings continues from
    it, to the same weights as without the interruption. `watch` is called with the number of steps
    done after each. Raises `UndenseError` for no trainable
    site, or a state file of other settings.
    """
    sites = _sites(pairs)
    path = None if folder is None else folder / "distill.pt"
    start, curve, events = _load(path, sites, settings)
    model.eval()
    for site in sites:
        site.student.train()
        site.snapshot(start)
    progress = tqdm(range(start, settings.steps), initial=start, total=settings.steps)
    progress.set_description("distil")
    device = next(model.parameters()).device
    half = torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16)
    for step in progress:
        ids = _batch(dataset, step, settings).to(device)
        rate = settings.learning_rate * cosine(step, settings.steps, settings.warmup)
        with _learning(sites, rate, settings) as errors, torch.no_grad(), half:
            model(input_ids=ids)
        events += [message for site in sites if (message := _watch(site, step, settings))]
        mean = sum(errors) / len(errors)
        curve.append((step, mean))
        if watch is not None:
            watch(step + 1)
        progress.set_postfix(error=f"{mean:.4f}", refresh=False)
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            for site in sites:
                if site.smooth is not None:
                    site.snapshot(step + 1)
            _save(path, step + 1, sites, settings, curve, events)
    model.eval()
    errors_by_site = {site.name: site.smooth or math.nan for site in sites}
    return DistillResult(curve=curve, errors=errors_by_site, events=events)


def cosine(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over a share of the steps, then a half cosine down to a tenth."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))


def _sites(pairs: Mapping[str, tuple[nn.Module, Callable[[Tensor], Tensor]]]) -> list[_Site]:
    sites = []
    for name, (student, teacher) in pairs.items():
        weights = [p for p in student.parameters() if p.requires_grad]
        if weights:
            optimizer = torch.optim.AdamW(
                weights, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=True
            )
            sites.append(_Site(name=name, student=student, teacher=teacher, optimizer=optimizer))
    if not sites:
        raise UndenseError(
            "distill: no replaced FFN has a parameter to train; convert with a component other"
            " than 'none', and keep the dense FFNs (keep_dense=True)"
        )
    return sites


@contextmanager
def _learning(sites: list[_Site], rate: float, settings: DistillSettings) -> Iterator[list[float]]:
    """Every site takes one step when the model inside the context calls it; their relative errors
    before the step, in the order of the calls. What a site hands on is from before its step."""
    errors: list[float] = []

    def enter(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        torch.set_grad_enabled(True)
        return (arguments[0].detach(),)

    def leave(site: _Site) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            with torch.no_grad():
                target = site.teacher(arguments[0]).float()
            with torch.autocast(output.device.type, enabled=False):
                errors.append(_advance(site, output.float(), target, rate, settings))
            torch.set_grad_enabled(False)
            return output.detach()

        return hook

    # First of all hooks to enter, so that whoever watches the site sees that it learns.
    handles = [site.student.register_forward_pre_hook(enter, prepend=True) for site in sites]
    handles += [site.student.register_forward_hook(leave(site)) for site in sites]
    try:
        yield errors
    finally:
        for handle in handles:
            handle.remove()


def _advance(
    site: _Site, output: Tensor, target: Tensor, rate: float, settings: DistillSettings
) -> float:
    """One optimizer step of one site; returns its relative error before the step."""
    spread = (target - target.flatten(0, -2).mean(0)).square().mean()
    loss = (output - target).square().mean() / spread.clamp_min(1e-12)
    site.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(site.student.parameters(), settings.clip)
    for group in site.optimizer.param_groups:
        group["lr"] = rate * site.factor
    site.optimizer.step()
    value = loss.item()
    site.smooth = value if site.smooth is None else 0.9 * site.smooth + 0.1 * value
    return value


def _watch(site: _Site, step: int, settings: DistillSettings) -> str | None:
    """Revert a site that diverged and say so."""
    assert site.smooth is not None
    finite = math.isfinite(site.smooth)
    if finite and site.smooth <= settings.divergence * site.best:
        site.best = min(site.best, site.smooth)
        return None
    said = f"{site.smooth:.3g}" if finite else "not finite"
    site.revert()
    message = (
        f"{site.name}: diverged at step {step} (relative error {said}, best {site.best:.3g});"
        f" back to step {site.good['step']}, step size now x{site.factor:g}"
    )
    tqdm.write(message)
    return message


def _batch(dataset: BlockDataset, step: int, settings: DistillSettings) -> Tensor:
    """Batch number `step` of an endless reshuffled pass; a function of the step alone."""
    places = range(step * settings.batch, (step + 1) * settings.batch)
    rows = []
    for place in places:
        epoch, index = divmod(place, len(dataset))
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
        order = torch.randperm(len(dataset), generator=generator)
        rows.append(dataset[int(order[index])]["input_ids"])
    return torch.stack(rows)


def _save(
    path: Path | None,
    step: int,
    sites: list[_Site],
    settings: DistillSettings,
    curve: list[tuple[int, float]],
    events: list[str],
) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "settings": asdict(settings),
        "step": step,
        "curve": curve,
        "events": events,
        "sites": {
            site.name: {
                "student": site.student.state_dict(),
                "optimizer": site.optimizer.state_dict(),
                "factor": site.factor,
                "smooth": site.smooth,
                "best": site.best,
            }
            for site in sites
        },
    }
    with whole(path) as partial:
        torch.save(state, partial)


def _load(
    path: Path | None, sites: list[_Site], settings: DistillSettings
) -> tuple[int, list[tuple[int, float]], list[str]]:
    if path is None or not path.is_file():
        return 0, [], []
    state = torch.load(path, weights_only=True)
    if state["settings"] != asdict(settings) or set(state["sites"]) != {s.name for s in sites}:
        raise UndenseError(
            f"{path} is the state of a distillation with other settings or sites; give another"
            " folder, or remove it to start again"
        )
    for site in sites:
        kept = state["sites"][site.name]
        site.student.load_state_dict(kept["student"])
        site.optimizer.load_state_dict(kept["optimizer"])
        site.factor, site.smooth, site.best = (kept["factor"], kept["smooth"], kept["best"])
    return state["step"], [tuple(point) for point in state["curve"]], state["events"]
