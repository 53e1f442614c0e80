"""The model card of a pretrained folder, from its metrics alone."""

import math
from typing import Any

_STANDARD_LIBRARY = """
Files are held out by a hash of their path relative to the library. Under another Python version
the files differ, so the corpus and its hash do too, and the losses move a little; but the same
path stays on the same side, so text that these weights were trained on is not held out there,
except where it moved from one file to another between versions.
"""


def pretrained_card(metrics: dict[str, Any], *, title: str, command: str) -> str:
    """Markdown with the front matter that the Hugging Face hub reads."""
    corpus, baselines = metrics["corpus"], metrics["baselines"]
    rows = [(title, metrics["loss"]), *reversed(list(baselines.items()))]
    table = "\n".join(f"| {name} | {loss:.4f} | {math.exp(loss):.2f} |" for name, loss in rows)
    default = corpus["name"] == "python-stdlib"
    text = "the Python standard library's own source" if default else f"`{corpus['name']}`"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [undense]
---

# {title}

A language model with {metrics["parameters"]:,} parameters, trained from scratch on {text}.
It is a test piece for changing a model's parts, and no assistant.

| model | held-out loss (nats per token) | perplexity |
|---|---|---|
{table}

The loss is the mean over {metrics["heldout_predictions"]:,} predicted tokens in non-overlapping
blocks of {metrics["context"]} held-out tokens; every model predicts the same tokens from what
stands before them in the same block, and was estimated on the same training split. The n-gram
models are interpolated, with modified Kneser-Ney discounts. Weights are stored as
{metrics["stored"]}, and the loss is that of the stored weights: {metrics["bits_per_byte"]:.4f} bits
for each of the {metrics["heldout_bytes"]:,} bytes of text predicted.

- Corpus: {text}, Python {corpus["python_version"]}, sha256 `{corpus["sha256"]}`
- Training split: {metrics["train_tokens"]:,} tokens; seen in training: {metrics["tokens_seen"]:,}
- Training FLOPs, forward and backward: {metrics["training_flops"]:.4g}
- Evaluation batches: sha256 `{metrics["batches_sha256"]}`
- Command: `{command}`
{_STANDARD_LIBRARY if default else ""}"""
