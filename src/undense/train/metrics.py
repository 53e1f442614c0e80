"""What `metrics.json` of a pretraining run says. The names stand here, once.

Quality, on the held-out text
- `loss`: nats a predicted token; `perplexity`; `bits_per_byte`: the same in bits for each byte of
  the text that was predicted, comparable across tokenizers; `heldout_predictions`,
  `heldout_bytes`; `baselines`: losses of n-gram models; `batches_sha256`, `corpus`
Size
- `parameters`, tied ones once; `ffn_parameters`: those in FFNs; `stored`
Cost of use, a token of a whole context, forward
- `model_flops_per_token`; `ffn_flops_per_token`: of one FFN, mean over the layers;
  `dense_ffn_flops_per_token`: of the host's own dense FFN; `ffn_share`: the one over the other
Cost of training
- `training_flops`: forward and backward of every step taken, guides and steps that a return gave up
  included; `training_flops_without_guide`; `ffn_training_flops`: the FFNs in the latter;
  `ffn_training_share`: their share of it; `uncounted_operations`: those without a formula, by name.
  The optimizer's arithmetic is left out
- `training_seconds`: time in the steps, given-up ones included; evaluation, saving, logging and
  data loading left out; null where an earlier version began the run
- `steps`, `tokens_seen`: what the final weights learned from; `train_tokens`: in the training
  split; `context`; `reverts`: returns after divergence (`train/reverts.py`)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from undense.contract import abstract_cost
from undense.ffn.shares import dense_config
from undense.measure.decoder_configs import decoder_of
from undense.measure.flops import count_flops
from undense.train.corpus import Corpus
from undense.train.heldout import heldout_bytes, heldout_loss
from undense.train.ngram import kept_ngram_losses
from undense.train.recipe import PretrainRecipe
from undense.train.reverts import Reverts
from undense.train.tokens import BlockDataset, batches_hash
from undense.train.work import Work, ffn_names, tokens_in


def run_metrics(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    recipe: PretrainRecipe,
    corpus: Corpus,
    train_tokens: torch.Tensor,
    heldout: BlockDataset,
    work: Work,
    seconds: float | None,
    reverts: Reverts,
) -> dict[str, Any]:
    """The metrics of a finished run; `work`: of all steps taken, those given up too."""
    loss = heldout_loss(model, heldout)
    blocks = len(train_tokens) // recipe.context
    predictions, size = (len(heldout) * (recipe.context - 1), heldout_bytes(tokenizer, heldout))
    ngrams = kept_ngram_losses(
        train_tokens.numpy(), heldout.blocks.numpy(), vocab_size=len(tokenizer)
    )
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "bits_per_byte": loss * predictions / size / math.log(2),
        "baselines": ngrams,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "ffn_parameters": _ffn_parameters(model),
        **_use(model, recipe.context),
        "training_flops": work.model + work.guides,
        "training_flops_without_guide": work.model,
        "ffn_training_flops": work.ffns,
        "ffn_training_share": work.ffns / work.model,
        "uncounted_operations": sorted(work.uncounted),
        "training_seconds": seconds,
        "stored": recipe.stored,
        "context": recipe.context,
        "train_tokens": len(train_tokens),
        "steps": recipe.steps,
        "tokens_seen": tokens_in(recipe, range(recipe.steps), blocks=blocks),
        "heldout_predictions": predictions,
        "heldout_bytes": size,
        "batches_sha256": batches_hash(heldout),
        "reverts": reverts.to_list(),
        "corpus": {
            "name": corpus.name,
            "sha256": corpus.sha256,
            "python_version": corpus.python_version,
        },
    }


def _ffn_parameters(model: PreTrainedModel) -> int:
    return sum(p.numel() for n in ffn_names(model) for p in model.get_submodule(n).parameters())


def _use(model: PreTrainedModel, context: int) -> dict[str, float]:
    """What a forward over one whole context costs, by token."""
    ids = torch.zeros(1, context, dtype=torch.long, device=model.device)
    before = model.training
    model.eval()
    with torch.no_grad():
        count = count_flops(lambda: model(input_ids=ids), model=model)
    model.train(before)
    names = ffn_names(model)
    ffn = sum(count.tree.part(name).forward for name in names) / len(names) / context
    dense = _dense(model, context) / context
    return {
        "model_flops_per_token": count.forward / context,
        "ffn_flops_per_token": ffn,
        "dense_ffn_flops_per_token": dense,
        "ffn_share": ffn / dense,
    }


def _dense(model: PreTrainedModel, tokens: int) -> int:
    """Forward FLOPs of the host's own dense FFN."""
    decoder = decoder_of(model.config)
    if decoder is not None:
        return decoder.ffns[0](tokens).forward
    shape = model.config.ffn_shape
    return abstract_cost(shape.dim, dense_config(shape), tokens).forward
