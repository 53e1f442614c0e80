"""Models and token blocks by the names that users type."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from undense.convert.families import FAMILIES, PREFIX
from undense.errors import UndenseError
from undense.pipeline.examples import EXAMPLE, example_config
from undense.pipeline.settings import TINY
from undense.train.corpus import Corpus, load_corpus
from undense.train.tiny import tiny_model, tiny_tokenizer
from undense.train.tokens import BlockDataset, encode


def load_model(name: str) -> PreTrainedModel:
    """The bundled model for "tiny", else a folder or a hub name; fp32, evaluation mode."""
    if name == TINY:
        return tiny_model().eval()
    require_causal(load_config(name), name)
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    except UndenseError:
        raise
    except (OSError, ValueError) as error:
        raise UndenseError(
            f"model {name!r}: neither a model folder nor a hub model that can be reached"
            f" ({str(error).splitlines()[0]})"
        ) from error
    return model.eval()


def load_config(name: str) -> PretrainedConfig:
    """The config alone, no weights: of a folder, a config.json, a hub name, or an example:NAME."""
    if name == TINY:
        return tiny_model().config
    if name.startswith(EXAMPLE):
        return example_config(name)
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        said = str(error).splitlines()[0]
        if (Path(name) / "config.json").is_file():
            raise UndenseError(
                f"model {name!r}: its config.json names no model that can be built ({said}); copy"
                " or save the folder again"
            ) from error
        raise UndenseError(
            f"model {name!r}: neither a folder with a config.json nor a hub model that can be"
            f" reached ({said})"
        ) from error


def require_causal(config: PretrainedConfig, name: str) -> None:
    """Refuse what these steps could neither train nor judge, which is next-token prediction."""
    kind = FAMILIES.get(config.model_type.removeprefix(PREFIX))
    if kind is not None and kind.kind != "causal" and not getattr(config, "is_decoder", False):
        raise UndenseError(
            f"model {name!r} is of the type {kind.model_type!r}, no causal language model, which is"
            " what the commands train and judge; in Python, undense.convert_(model, ffn,"
            " calibration=…) converts it and save_pretrained saves it"
        )


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to `load_model(name)`."""
    if name == TINY:
        return tiny_tokenizer()
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UndenseError(
            f"model {name!r} has no tokenizer beside its weights"
            f" ({str(error).splitlines()[0]}); save one into the folder"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """The two splits of a corpus as blocks of tokens."""

    corpus: Corpus
    train: BlockDataset
    heldout: BlockDataset


def load_blocks(
    tokenizer: PreTrainedTokenizerBase, data: str | None, context: int, eval_blocks: int | None
) -> Blocks:
    """The default corpus, or the text at the path `data`, cut into blocks of `context` tokens."""
    corpus = load_corpus(data)
    train = BlockDataset(encode(corpus, "train", tokenizer), context)
    heldout = BlockDataset(encode(corpus, "heldout", tokenizer), context, limit=eval_blocks)
    return Blocks(corpus=corpus, train=train, heldout=heldout)


def context_of(model: PreTrainedModel, wanted: int) -> int:
    """`wanted`, or what the model has positions for if that is less."""
    limit = getattr(model.config, "max_position_embeddings", None) or wanted
    return min(wanted, limit)


def model_title(name: str) -> str:
    """How a report calls the model: its last path component, never a machine's path."""
    return "the bundled tiny GPT-2" if name == TINY else Path(name).name
