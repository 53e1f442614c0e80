"""A model card tells a stranger what was done, what it costs, and how to load it."""

from __future__ import annotations

from typing import Any

from undense.report.card import card

RECIPE: dict[str, Any] = {
    "format": 1,
    "source": "/home/somebody/models/gpt2",
    "steps": [
        {
            "step": "convert",
            "ffn": "ultra-25",
            "seed": 0,
            "targets": None,
            "sites": {
                "flops_before": 4000,
                "flops_after": 1000,
                "sites": [{"name": "h.0.mlp", "flops_before": 2000}],
            },
        },
        {"step": "distill", "steps": 80, "learning_rate": 0.002, "data": {"path": None}},
    ],
}
METRICS: dict[str, Any] = {
    "loss": 2.5,
    "perplexity": 12.18,
    "loss_dense": 2.4,
    "model_flops_per_token": 5151744.5,
    "parameters": 1234567,
    "ffn_parameters": 234567,
    "eval_tokens": 65536,
    "batches_hash": "ab" * 32,
    "events": ["h.0.mlp went back to step 40"],
}
FLOPS: dict[str, Any] = {"h.0.mlp": {"name": "ultra", "forward": 500}}


def test_it_says_how_to_load_the_model() -> None:
    lines = card(RECIPE, METRICS, FLOPS).splitlines()
    importing = next(i for i, line in enumerate(lines) if line.startswith("import undense"))
    loading = next(i for i, line in enumerate(lines) if "from_pretrained(folder)" in line)
    assert importing < loading


def test_front_matter_comes_first_and_figures_are_there() -> None:
    text = card(RECIPE, METRICS, FLOPS)
    assert text.startswith("---\nlibrary_name: transformers\n")
    for words in (
        "2.5000",
        "12.180",
        "so +0.1000 here",
        "1,234,567",
        "`h.0.mlp` | ultra | 500 | 25.0",
        "1,000 FLOPs a token instead of 4,000",
        "1. **convert**: ffn ultra-25, seed 0",
        "2. **distill**: steps 80, learning_rate 0.002",
        "went back to step 40",
        "ab" * 32,
    ):
        assert words in text, words


def test_no_folder_of_the_authors_machine_is_told() -> None:
    text = card(RECIPE, METRICS, FLOPS)
    assert "/home/somebody" not in text
    assert "# gpt2, with other FFNs" in text


def test_a_hub_name_stays_whole() -> None:
    assert "# mistralai/Mistral-7B-v0.1, with" in card(
        {**RECIPE, "source": "mistralai/Mistral-7B-v0.1"}, METRICS, FLOPS
    )


def test_a_dense_folder_has_a_card_too() -> None:
    metrics = {key: value for key, value in METRICS.items() if key not in ("loss_dense", "events")}
    text = card({"source": "gpt2", "steps": []}, metrics, {})
    assert "All FFNs are dense." in text
    assert "went wrong" not in text
