"""One arm of a comparison: from the dense base to a trained, evaluated and saved model."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from undense.contract import abstract_cost
from undense.convert import originals
from undense.convert.convert import convert_
from undense.convert.folders import save
from undense.convert.sites import find_components, find_sites
from undense.ffn.shares import dense_config, dense_flops
from undense.files import write_json
from undense.pipeline.figures import model_flops_per_token
from undense.pipeline.load import Blocks, load_model
from undense.pipeline.settings import DemoSettings
from undense.train.distill import distill
from undense.train.finetune import finetune
from undense.train.heldout import heldout_loss
from undense.train.settings import DistillSettings, FinetuneSettings
from undense.train.tokens import batches_hash

TITLES = {
    "dense": "dense base, fine-tuned as long",
    "ultra-all": "all four stages",
    "ultra-small": "UltraEfficientSparseFFN, narrow projection",
    "ultra": "UltraEfficientSparseFFN, blocks chosen by token",
    "narrow": "narrow dense, refit and distilled",
    "block_topk": "blocks chosen by token, distilled",
    "low_rank": "low-rank, refit and distilled",
    "none": "no FFN, trained",
}


def run_arm(
    arm: str,
    settings: DemoSettings,
    blocks: Blocks,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> None:
    """Train, evaluate and save one arm into `folder`; nothing to do where it already is.

    Every arm sees the same number of training tokens of the same corpus. An arm without anything
    to distil (dense, none) fine-tunes through the tokens that the others distil on.
    """
    if (folder / "figures.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    set_seed(settings.seed)
    started = time.perf_counter()
    model = load_model(settings.model)
    figures: dict[str, Any] = {"arm": arm, "title": title(arm), "ffn": None}
    shape = find_sites(model)[0].shape
    config = dense_config(shape)
    if arm != "dense":
        calibration = blocks.train.blocks[: settings.calibration_blocks].long()
        conversion = convert_(model, arm, calibration=calibration, seed=settings.seed)
        config = conversion.sites[0].config
        figures["ffn"] = config.to_dict()
    figures["loss_start"] = heldout_loss(model, blocks.heldout)
    curve: list[dict[str, Any]] = []
    events: list[str] = []
    steps = settings.finetune_steps
    if trainable(model):
        result = distill(
            model.base_model,
            _pairs(model),
            blocks.train,
            DistillSettings(
                steps=settings.distill_steps,
                batch=settings.batch,
                learning_rate=settings.distill_rate,
                seed=settings.seed,
                bf16=settings.bf16,
            ),
            folder=folder / "work",
        )
        curve += [{"stage": "distill", "step": s, "loss": v} for s, v in result.curve]
        events += result.events
        figures["loss_distilled"] = heldout_loss(model, blocks.heldout)
    else:
        steps += settings.distill_steps
        figures["loss_distilled"] = None
    originals.forget(model)
    tuned = finetune(
        model,
        blocks.train,
        FinetuneSettings(
            steps=steps,
            batch=settings.batch,
            learning_rate=settings.finetune_rate,
            seed=settings.seed,
            bf16=settings.bf16,
            save_every=max(50, steps // 4),
        ),
        folder / "work" / "finetune",
    )
    curve += [{"stage": "finetune", "step": s, "loss": v} for s, v in tuned.curve]
    events += tuned.events
    loss = heldout_loss(model, blocks.heldout)
    cost = abstract_cost(shape.dim, config)
    figures |= {
        "loss": loss,
        "perplexity": math.exp(loss),
        "ffn_flops_per_token": cost.forward,
        "ffn_macs_per_token": cost.macs,
        "ffn_share": cost.forward / dense_flops(shape),
        "model_flops_per_token": model_flops_per_token(model, settings.context),
        "parameters": sum(p.numel() for p in model.parameters()),
        "ffn_parameters": sum(p.numel() for ffn in ffns_of(model) for p in ffn.parameters()),
        "train_seconds": time.perf_counter() - started,
        "training_tokens": settings.tokens_seen,
        "batches_hash": batches_hash(blocks.heldout),
        "curve": curve,
        "events": events,
    }
    save(model, folder / "model", tokenizer=tokenizer)
    write_json(folder / "flops.json", {"convention": CONVENTION, **cost.to_dict()})
    shutil.rmtree(folder / "work", ignore_errors=True)
    write_json(folder / "figures.json", figures)


CONVENTION = (
    "one FFN, one token; a multiply-add is 2 FLOPs; macs: multiply-add 1, activation function 1,"
    " normalisation 4 per number"
)


def title(arm: str) -> str:
    """What an arm is, in words."""
    for name, words in TITLES.items():
        if arm == name or arm.startswith(f"{name}-"):
            return words
    return arm


def ffns_of(model: PreTrainedModel) -> list[nn.Module]:
    """The FFNs of a model in the order of its layers, replaced or dense."""
    return list(find_components(model).values()) or [site.module for site in find_sites(model)]


def _pairs(model: PreTrainedModel) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Each replaced FFN beside the dense one that the conversion kept."""
    dense = originals.kept(model)
    return {name: (ffn, dense[name]) for name, ffn in find_components(model).items()}


def trainable(model: PreTrainedModel) -> bool:
    """Whether any replaced FFN has a parameter to distil into."""
    return any(True for ffn in find_components(model).values() for _ in ffn.parameters())


def read_figures(folder: Path) -> dict[str, Any]:
    """What `run_arm` wrote."""
    return json.loads((folder / "figures.json").read_text(encoding="utf-8"))
