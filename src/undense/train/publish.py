"""The end of a pretraining run: from a trained model to a stock Hugging Face folder."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from undense.files import whole, write_json
from undense.train.card import pretrained_card
from undense.train.recipe import PretrainRecipe


def publish(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    recipe: PretrainRecipe,
    folder: Path,
    measure: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """Weights, tokenizer, `recipe.json`, `metrics.json` and a card into `folder`; returns the
    metrics, which `measure` takes of the model. `metrics.json` comes last: a folder that has one is
    complete.

    With `stored="fp16"` the model's weights are rounded in place, so that what is evaluated is
    what is stored; they load as float32 again."""
    if recipe.stored == "fp16":
        for parameter in model.parameters():
            parameter.data = parameter.data.half().float()
    model.config.use_cache = True  # the Trainer switches it off; generation wants it
    metrics = measure()
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


def _save_weights(model: PreTrainedModel, folder: Path, *, half: bool) -> None:
    """`half` is how the numbers are stored; the config still says that they are float32."""
    state = model.state_dict()
    if half:
        # By address, so that tied weights stay tied and are written once.
        halves = {tensor.data_ptr(): tensor.half() for tensor in state.values()}
        state = {name: halves[tensor.data_ptr()] for name, tensor in state.items()}
    model.save_pretrained(folder, state_dict=state)
