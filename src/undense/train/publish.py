"""The end of a pretraining run: from a trained model to a stock Hugging Face folder."""

import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from undense.files import whole, write_json
from undense.train.card import pretrained_card
from undense.train.corpus import Corpus
from undense.train.heldout import heldout_loss
from undense.train.ngram import kept_ngram_losses
from undense.train.recipe import PretrainRecipe
from undense.train.reverts import Reverts
from undense.train.tokens import BlockDataset, batches_hash
from undense.train.work import Work


def publish(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    recipe: PretrainRecipe,
    corpus: Corpus,
    train_tokens: torch.Tensor,
    heldout: BlockDataset,
    folder: Path,
    work: Work,
    seconds: float | None,
    reverts: Reverts,
) -> dict[str, Any]:
    """Weights, tokenizer, `recipe.json`, `metrics.json` and a card into `folder`; returns the
    metrics. `metrics.json` comes last: a folder that has one is complete.

    With `stored="fp16"` the model's weights are rounded in place, so that what is evaluated is
    what is stored; they load as float32 again."""
    if recipe.stored == "fp16":
        for parameter in model.parameters():
            parameter.data = parameter.data.half().float()
    model.config.use_cache = True  # the Trainer switches it off; generation wants it
    metrics = _metrics(model, tokenizer, recipe, corpus, train_tokens, heldout)
    metrics["training_seconds"] = seconds
    metrics["training_flops"] = work.model + work.guides
    metrics["training_flops_without_guide"] = work.model
    metrics["ffn_training_flops"] = work.ffns
    metrics["reverts"] = reverts.to_list()
    # Beside the target and not in the system's temporary folder: a rename must not cross disks.
    staging = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    try:
        _save_weights(model, staging, half=recipe.stored == "fp16")
        tokenizer.save_pretrained(staging)
        for path in sorted(staging.iterdir()):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(staging)
    write_json(folder / "recipe.json", recipe.to_dict())
    card = pretrained_card(
        metrics, title=folder.resolve().name, command="undense train --recipe recipe.json"
    )
    with whole(folder / "README.md") as partial:
        partial.write_text(card, encoding="utf-8")
    write_json(folder / "metrics.json", metrics)
    return metrics


def _metrics(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: PretrainRecipe,
    corpus: Corpus,
    train_tokens: torch.Tensor,
    heldout: BlockDataset,
) -> dict[str, Any]:
    loss = heldout_loss(model, heldout)
    blocks = heldout.blocks.numpy()
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "baselines": kept_ngram_losses(train_tokens.numpy(), blocks, vocab_size=len(tokenizer)),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "stored": recipe.stored,
        "context": recipe.context,
        "train_tokens": len(train_tokens),
        "tokens_seen": recipe.steps * recipe.batch * recipe.context,
        "heldout_predictions": len(heldout) * (recipe.context - 1),
        "batches_sha256": batches_hash(heldout),
        "corpus": {
            "name": corpus.name,
            "sha256": corpus.sha256,
            "python_version": corpus.python_version,
        },
    }


def _save_weights(model: PreTrainedModel, folder: Path, *, half: bool) -> None:
    """`half` is how the numbers are stored; the config still says that they are float32."""
    state = model.state_dict()
    if half:
        # By address, so that tied weights stay tied and are written once.
        halves = {tensor.data_ptr(): tensor.half() for tensor in state.values()}
        state = {name: halves[tensor.data_ptr()] for name, tensor in state.items()}
    model.save_pretrained(folder, state_dict=state)
