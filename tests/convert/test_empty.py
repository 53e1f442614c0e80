"""What `undense flops` tells of a family without weights is what a built model dispatches."""

from __future__ import annotations

import hosts
import pytest
import torch

from undense.convert.convert import convert_
from undense.measure.flops import count_flops
from undense.pipeline.estimate import EstimateSettings
from undense.pipeline.whole import compare

TOKENS = EstimateSettings(batch=2, tokens=12, past=12)


@pytest.mark.parametrize("host", ["gptj", "gemma2", "phi3", "roberta", "t5/gated", "bart"])
def test_an_empty_model_costs_what_the_built_one_does(host: str) -> None:
    """Dense and replaced."""
    told = compare(
        hosts.config_of(host), TOKENS, ffn="low_rank-25", targets=None, exclude=None, strict=True
    )
    model = hosts.tiny(host)
    batch = hosts.inputs(model, rows=2, tokens=12)
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = batch["input_ids"]
    for side in ("dense", "replaced"):
        if side == "replaced":
            convert_(model, "low_rank-25", calibration=hosts.calibration(model), keep_dense=False)
        with torch.no_grad():
            count = count_flops(lambda: model(**batch), model=model)
        assert told[side]["flops"] == count.forward
        assert told[side]["parameters"] == sum(p.numel() for p in model.parameters())
