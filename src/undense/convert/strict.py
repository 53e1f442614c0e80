"""Loading that refuses what transformers only reports: missing, extra and mis-shaped keys."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedModel

from undense.convert.families import FAMILIES, PREFIX
from undense.convert.sites import base_key
from undense.errors import UndenseError


def load(
    from_pretrained: Callable[..., Any], source: Any, /, *args: Any, **options: Any
) -> PreTrainedModel | tuple[PreTrainedModel, dict[str, Any]]:
    """`from_pretrained(source, …)`, strictly.

    Under the head that was saved every key must match. Under another head (a classifier on the
    backbone of a language model) the head's own keys may be new, as in transformers, but none of
    the base model's. Raises `UndenseError` that names the keys, and for damaged files.
    """
    wants_info = options.pop("output_loading_info", False)
    lenient = options.pop("ignore_mismatched_sizes", False)
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    with _held_report() as report:
        with readable(source):
            model, info = from_pretrained(source, *args, **options)
        check(model, info, source, lenient=lenient)
    for record in report:
        logging.getLogger(record.name).handle(record)
    return (model, info) if wants_info else model


def check(
    model: PreTrainedModel, info: dict[str, Any], source: object, *, lenient: bool = False
) -> None:
    """Raise for keys that do not match. `info`: what transformers found while loading.

    `lenient`: a head of another size (`ignore_mismatched_sizes`) is accepted, a base model never.
    """
    saved = model.config.architectures or [type(model).__name__]
    other_head = type(model).__name__ not in saved
    mismatched = {key: shapes for key, *shapes in info["mismatched_keys"]}
    problems = [
        *_listed("missing", info["missing_keys"], model, heads=other_head or lenient),
        *_listed("unexpected", info["unexpected_keys"], model, heads=other_head),
        *_listed("of another shape", mismatched, model, heads=lenient, shapes=mismatched),
        *info["error_msgs"],
    ]
    if problems:
        raise UndenseError(
            f"{source} does not fit {type(model).__name__}: {'; '.join(problems)}. The weights and"
            " config.json are not of the same model, or the folder is incomplete; save it again"
        )


def _listed(
    what: str,
    keys: Any,
    model: PreTrainedModel,
    *,
    heads: bool,
    shapes: dict[str, Any] | None = None,
) -> list[str]:
    """One sentence about these keys; those of a head are left out where `heads` may differ."""
    wrong = sorted(key for key in keys if not heads or _of_the_base(model, key))
    if not wrong:
        return []
    named = [
        f"{key} (file {tuple(shapes[key][0])}, model {tuple(shapes[key][1])})" if shapes else key
        for key in wrong[:6]
    ]
    rest = f" and {len(wrong) - 6} more" if len(wrong) > 6 else ""
    return [f"{len(wrong)} {what}: {', '.join(named)}{rest}"]


def _of_the_base(model: PreTrainedModel, key: str) -> bool:
    """Whether a weight belongs to what every head of its family stands on."""
    key = base_key(model, key)
    optional = FAMILIES[kind].optional if (kind := _stock_type(model)) in FAMILIES else ()
    base = {name for name, _ in model.base_model.named_children()}
    return key.partition(".")[0] in base and not key.startswith(optional)


def _stock_type(model: PreTrainedModel) -> str:
    return model.config.model_type.removeprefix(PREFIX)


@contextmanager
def readable(source: object) -> Iterator[None]:
    """Turn the many errors of a damaged or absent model into one `UndenseError` of one line."""
    try:
        yield
    except SafetensorError as error:
        raise UndenseError(
            f"{source}: its safetensors file is truncated or damaged ({error}); copy or save it"
            " again"
        ) from error
    except UndenseError:
        raise
    except (OSError, ValueError, StrictDataclassError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UndenseError(f"cannot load {source}: {lines[0]}{_contents(source)}") from error


def _contents(source: object) -> str:
    """What a folder holds, where it is one: the usual mistake is a folder too high or too deep."""
    folder = Path(str(source))
    if not folder.is_dir():
        return ""
    names = sorted(path.name for path in folder.iterdir())
    return f" (the folder holds: {', '.join(names[:8]) or 'nothing'})"


@contextmanager
def _held_report() -> Iterator[list[logging.LogRecord]]:
    """Hold back transformers' table of mismatched keys: an error says the same in one line."""
    held: list[logging.LogRecord] = []

    def hold(record: logging.LogRecord) -> bool:
        if "LOAD REPORT" not in record.getMessage():
            return True
        held.append(record)
        return False

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(hold)
    try:
        yield held
    finally:
        logger.removeFilter(hold)
