"""The model card of a converted folder: what was done, what it cost, how to load it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from undense.report.numbers import change, exact, percent, signed

LOADING = """```python
import undense  # registers the model's type; without it the folder is refused
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "path/to/this/folder"
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
```"""


def card(recipe: Mapping[str, Any], metrics: Mapping[str, Any], flops: Mapping[str, Any]) -> str:
    """Markdown with the front matter that the Hugging Face hub reads.

    `recipe`: `recipe.json` (its `source`, and its `steps` in their order); `metrics`:
    `metrics.json`; `flops`: the cost tree of every replaced FFN by its path, for one token.
    """
    title = f"{_name(str(recipe.get('source', 'a model')))}, with other FFNs"
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [undense]",
        "---",
        "",
        f"# {title}",
        "",
        _summary(recipe, flops),
        "",
        "## How to load it",
        "",
        LOADING,
        "",
        "## What it costs and how well it predicts",
        "",
        *_figures(metrics, recipe),
        "",
        "FLOPs are arithmetic, not time: a multiply-add is 2, elementwise work counts, no speed is"
        " claimed here. `flops.json` holds the cost of every part, `metrics.json` these figures.",
        "",
        "## FFNs",
        "",
        *_ffns(recipe, flops),
        "",
        "## How it was made",
        "",
        *_steps(recipe),
        "",
    ]
    if events := metrics.get("events"):
        lines += ["## What went wrong on the way", "", *(f"- {event}" for event in events), ""]
    return "\n".join(lines)


def _name(source: str) -> str:
    """A model's name without anybody's folders in front; a hub name stays whole."""
    local = source.startswith(("/", ".", "~")) or source.count("/") > 1
    return source.rstrip("/").rpartition("/")[2] if local else source


def _conversion(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `convert` recorded, or nothing."""
    steps = [step for step in recipe.get("steps", []) if step.get("step") == "convert"]
    found = steps[-1].get("sites") if steps else None
    return found if isinstance(found, Mapping) else {}


def _summary(recipe: Mapping[str, Any], flops: Mapping[str, Any]) -> str:
    conversion = _conversion(recipe)
    kinds = sorted({str(tree["name"]) for tree in flops.values()})
    text = f"{len(flops)} FFNs of `{_name(str(recipe.get('source')))}` are replaced"
    text += f" by `{', '.join(kinds)}`." if kinds else "."
    if conversion.get("flops_before"):
        before, after = (conversion["flops_before"], conversion["flops_after"])
        text += (
            f" Together they take {exact(after)} FLOPs a token instead of {exact(before)}"
            f" ({change(after / before, 1)})."
        )
    return text


def _figures(metrics: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    rows = [
        ("Held-out loss (nats a token)", f"{metrics['loss']:.4f}"),
        ("Perplexity", f"{metrics['perplexity']:.3f}"),
    ]
    if (dense := metrics.get("loss_dense")) is not None:
        delta = signed(metrics["loss"] - dense, 4)
        rows.append(("Loss of the dense model", f"{dense:.4f}, so {delta} here"))
        rows.append(("Perplexity of the dense model", f"{math.exp(dense):.3f}"))
    rows += [
        ("Model FLOPs a token", exact(metrics["model_flops_per_token"])),
        ("Parameters", exact(metrics["parameters"])),
        ("of them in FFNs", exact(metrics["ffn_parameters"])),
    ]
    if "eval_tokens" in metrics:
        rows.append(("Evaluated on", f"{exact(metrics['eval_tokens'])} held-out tokens"))
    if "batches_hash" in metrics:
        rows.append(("Batches, sha256", f"`{metrics['batches_hash']}`"))
    rows.append(("Steps since the dense model", str(len(recipe.get("steps", [])))))
    return ["| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows)]


def _ffns(recipe: Mapping[str, Any], flops: Mapping[str, Any]) -> list[str]:
    if not flops:
        return ["All FFNs are dense."]
    before = {site["name"]: site["flops_before"] for site in _conversion(recipe).get("sites", ())}
    lines = ["| FFN | component | FLOPs a token | of dense |", "|---|---|---:|---:|"]
    for place, tree in flops.items():
        dense = before.get(place)
        share = percent(tree["forward"] / dense, 1) if dense else "–"
        lines.append(f"| `{place}` | {tree['name']} | {exact(tree['forward'])} | {share} |")
    return lines


def _steps(recipe: Mapping[str, Any]) -> list[str]:
    lines = []
    for number, step in enumerate(recipe.get("steps", []), 1):
        plain = {
            key: value
            for key, value in step.items()
            if key != "step" and value is not None and not isinstance(value, dict | list)
        }
        words = ", ".join(f"{key} {value}" for key, value in plain.items())
        lines.append(f"{number}. **{step['step']}**: {words}")
    return lines or ["Nothing was done to it."]
