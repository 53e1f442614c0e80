"""The tiny GPT-2 that comes with the package: a real trained model that needs no network."""

from pathlib import Path

import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from undense.errors import UndenseError

TINY_FOLDER = Path(__file__).resolve().parent.parent / "tiny"


def tiny_model() -> GPT2LMHeadModel:
    """In float32 and evaluation mode; its card says what it was trained on, and how well."""
    return GPT2LMHeadModel.from_pretrained(_folder(), dtype=torch.float32).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """The byte-level BPE that `tiny_model` was trained with."""
    return PreTrainedTokenizerFast.from_pretrained(_folder())


def _folder() -> str:
    if not (TINY_FOLDER / "model.safetensors").exists():
        raise UndenseError(
            f"the bundled tiny model is missing from {TINY_FOLDER}; reinstall undense, or rebuild "
            "it with `undense train --recipe recipes/tiny-gpt2.json`"
        )
    return str(TINY_FOLDER)
