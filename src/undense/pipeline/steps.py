"""The single steps behind the commands: convert, distil, fine-tune, evaluate; folder to folder.

A folder is a stock Hugging Face one with `recipe.json` (what was done to it, step by step),
`metrics.json`, `flops.json` and a model card beside the weights.
"""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, set_seed

from undense.contract import FFNComponent, abstract_cost
from undense.convert.attention import convert_mixers_
from undense.convert.convert import convert_
from undense.convert.folders import save
from undense.convert.sites import find_components, find_sites
from undense.errors import UndenseError
from undense.ffn.shares import dense_config
from undense.pipeline.figures import forward_times, model_flops_per_token
from undense.pipeline.live import Live, LiveCallback
from undense.pipeline.load import (
    Blocks,
    context_of,
    load_blocks,
    load_model,
    load_tokenizer,
    model_title,
)
from undense.pipeline.plan import convert_plan, listed, mixer_spec, must_be_new
from undense.pipeline.settings import ConvertSettings, DataSettings, TrainSettings
from undense.pipeline.work import work_folder
from undense.report.card import card
from undense.report.values import Values
from undense.train.distill import distill
from undense.train.finetune import finetune
from undense.train.heldout import heldout_loss
from undense.train.settings import DistillSettings, FinetuneSettings
from undense.train.tokens import batches_hash

ROUNDS = 5  # of the timing: enough for quartiles, few enough for a model of some GFLOPs a token


def convert(settings: ConvertSettings, output_dir: Path) -> dict[str, Any]:
    """Replace the FFNs of a model by a closed-form start and save it; returns its metrics."""
    convert_plan(settings, output_dir)  # refuses what cannot be done before any weights are read
    set_seed(settings.seed)
    model = load_model(settings.model)
    tokenizer = load_tokenizer(settings.model)
    blocks = _blocks(settings.model, model, settings.data)
    before = heldout_loss(model, blocks.heldout)
    conversion = convert_(
        model,
        settings.ffn,
        targets=listed(settings.targets),
        exclude=listed(settings.exclude),
        calibration=blocks.train.blocks[: settings.data.calibration_blocks].long(),
        seed=settings.seed,
        keep_dense=False,
    )
    if settings.mixer is not None:
        convert_mixers_(model, mixer_spec(settings.mixer), seed=settings.seed, keep_dense=False)
    metrics = figures(model, blocks, settings.data.context) | {"loss_dense": before}
    step = {"step": "convert", **asdict(settings), "sites": conversion.to_dict()}
    step["model"] = model_title(settings.model)
    recipe = read_recipe(settings.model)
    recipe["steps"].append(step)
    _save(model, tokenizer, output_dir, recipe, metrics)
    return metrics


def distill_folder(
    settings: TrainSettings,
    training: DistillSettings,
    output_dir: Path,
    *,
    live: Path | None = None,
) -> dict[str, Any]:
    """Layer-wise distillation of a converted folder against the dense FFNs of its source.

    An interrupted call continues from the state beside `output_dir` to the same weights. `live`:
    the folder of a live view (see `live.py`).
    """
    must_be_new(output_dir)
    model = load_model(settings.model)
    recipe = read_recipe(settings.model)
    dense = load_model(settings.teacher or recipe["source"])
    pairs = dense_pairs(model, dense)
    blocks = _blocks(settings.model, model, settings.data)
    identity = _identity("distill", settings, training, blocks, recipe)
    with (
        work_folder(output_dir, identity) as work,
        nullcontext() if live is None else Live(model, live) as view,
    ):
        watch = None if view is None else view.step
        result = distill(model.base_model, pairs, blocks.train, training, folder=work, watch=watch)
        metrics = figures(model, blocks, settings.data.context) | {"events": result.events}
        step = {"step": "distill", **asdict(training), "data": asdict(settings.data)}
        recipe["steps"].append(step)
        _save(model, load_tokenizer(settings.model), output_dir, recipe, metrics)
    return metrics


def finetune_folder(
    settings: TrainSettings,
    training: FinetuneSettings,
    output_dir: Path,
    *,
    live: Path | None = None,
) -> dict[str, Any]:
    """Fine-tune a folder (converted or dense) with the Trainer; a teacher only where it weighs."""
    must_be_new(output_dir)
    model = load_model(settings.model)
    recipe = read_recipe(settings.model)
    teacher = None
    if training.teacher_weight > 0:
        teacher = load_model(settings.teacher or recipe["source"])
    blocks = _blocks(settings.model, model, settings.data)
    identity = _identity("finetune", settings, training, blocks, recipe)
    views = [] if live is None else [LiveCallback(live)]
    with work_folder(output_dir, identity) as work:
        result = finetune(model, blocks.train, training, work, teacher=teacher, callbacks=views)
        metrics = figures(model, blocks, settings.data.context) | {"events": result.events}
        step = {"step": "finetune", **asdict(training), "data": asdict(settings.data)}
        recipe["steps"].append(step)
        _save(model, load_tokenizer(settings.model), output_dir, recipe, metrics)
    return metrics


def evaluate(name: str, data: DataSettings) -> dict[str, Any]:
    """Held-out loss, cost and size of a model folder, a hub model or the bundled one."""
    model = load_model(name)
    return figures(model, _blocks(name, model, data), data.context)


def figures(model: PreTrainedModel, blocks: Blocks, context: int) -> dict[str, Any]:
    """The figures that every folder's `metrics.json` has; `ffn_flops_per_token` is the mean over
    the model's FFNs, dense ones included."""
    loss = heldout_loss(model, blocks.heldout)
    if not math.isfinite(loss):
        raise UndenseError(
            "the held-out loss is not finite: the weights are damaged or training diverged; start"
            " again from the last good folder"
        )
    context = context_of(model, context)
    components = find_components(model)
    sites = find_sites(model)
    ffns: list[nn.Module] = [*components.values(), *(site.module for site in sites)]
    flops = {name: component.cost(1).forward for name, component in components.items()}
    for site in sites:
        flops[site.name] = abstract_cost(site.shape.dim, dense_config(site.shape)).forward
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "ffn_flops_per_token": sum(flops.values()) / len(flops),
        "ffn_flops_by_site": flops,
        "model_flops_per_token": model_flops_per_token(model, context),
        "parameters": sum(p.numel() for p in model.parameters()),
        "ffn_parameters": sum(p.numel() for ffn in ffns for p in ffn.parameters()),
        "forward_ms": forward_times({"model": model}, context, rounds=ROUNDS, warmup=1)["model"],
        "threads": torch.get_num_threads(),
        "eval_tokens": blocks.heldout.blocks.numel(),
        "batches_hash": batches_hash(blocks.heldout),
    }


def dense_pairs(
    model: PreTrainedModel, dense: PreTrainedModel
) -> dict[str, tuple[FFNComponent, nn.Module]]:
    """Each replaced FFN beside the dense one of the same place in another model."""
    sites = {site.name: site for site in find_sites(dense)}
    students = find_components(model)
    if missing := sorted(set(students) - set(sites)):
        raise UndenseError(
            f"the dense model has no FFN at {', '.join(missing[:3])}; give the model that the"
            " folder was converted from as --teacher"
        )
    if not students:
        raise UndenseError(
            "distill: the folder has no replaced FFN to distil into; convert it first"
        )
    for name, student in students.items():
        if (dim := sites[name].shape.dim) != student.dim:
            raise UndenseError(
                f"{name}: the FFN of the dense model has dim={dim}, its replacement"
                f" dim={student.dim}; give the model that the folder was converted from as"
                " --teacher"
            )
    return {name: (student, sites[name].module) for name, student in students.items()}


def read_recipe(folder: str) -> dict[str, Any]:
    """What was done to a folder since the dense model `source`; no steps for a dense model."""
    path = Path(folder) / "recipe.json"
    source = str(Path(folder).resolve()) if Path(folder).is_dir() else folder
    fresh: dict[str, Any] = {"format": 1, "source": source, "steps": []}
    if not path.is_file():
        return fresh
    recipe = dict(Values.read(path).values)
    return recipe if "source" in recipe else fresh  # the recipe of a pretraining run: dense


def _blocks(name: str, model: PreTrainedModel, data: DataSettings) -> Blocks:
    context = context_of(model, data.context)
    return load_blocks(load_tokenizer(name), data.path, context, data.eval_blocks)


def _save(
    model: PreTrainedModel,
    tokenizer: Any,
    folder: Path,
    recipe: dict[str, Any],
    metrics: dict[str, Any],
) -> None:
    components = find_components(model)
    flops = {name: component.cost(1).to_dict() for name, component in components.items()}
    save(
        model,
        folder,
        tokenizer=tokenizer,
        files={
            "recipe.json": json.dumps(recipe, indent=2) + "\n",
            "metrics.json": json.dumps(metrics, indent=2) + "\n",
            "flops.json": json.dumps(flops, indent=2) + "\n",
            "README.md": card(recipe, metrics, flops),
        },
    )


def _identity(
    step: str,
    settings: TrainSettings,
    training: DistillSettings | FinetuneSettings,
    blocks: Blocks,
    recipe: dict[str, Any],
) -> dict[str, Any]:
    """All that decides what a training step comes to: its state serves this step and no other."""
    weights = Path(settings.model) / "model.safetensors"
    return {
        "step": step,
        "training": asdict(training),
        "model": settings.model,
        "weights": sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None,
        "teacher": settings.teacher or recipe["source"],
        "corpus": blocks.corpus.sha256,
        "context": blocks.train.blocks.shape[1],
    }
