"""LoRA on the attention of a converted model, by `peft`, with its replaced FFNs trained whole.

PEFT's `modules_to_save` would copy every FFN and wrap it in a module of its own, which no saved
folder could be built from again. So the FFNs are left where they are and unfrozen; they are saved
in a file of their own (`undense.save_adapters`). Paper: https://arxiv.org/abs/2106.09685.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from undense.contract import FFNComponent
from undense.errors import UndenseError

if TYPE_CHECKING:
    from peft import PeftModel


def add_lora_(model: PreTrainedModel, *, rank: int = 8, alpha: int | None = None) -> PeftModel:
    """Give every projection in the attention of `model` a low-rank adapter, in place, and freeze
    all the rest but the replaced FFNs.

    y = W x + alpha / rank B A x, A (rank, inputs), B (outputs, rank), B = 0 at the start; `alpha`
    is twice the rank if None. Returns PEFT's view of the model: `merge_and_unload()` makes it one
    without adapters again. Raises `UndenseError` where there is no attention to adapt.
    """
    peft = require_peft()
    if rank < 1:
        raise UndenseError(f"LoRA: rank={rank} must be at least 1")
    targets = attention_projections(model)
    if not targets:
        raise UndenseError(
            f"LoRA: {type(model).__name__} has no plain linear projection inside a module whose"
            " class is named Attention; merge earlier adapters and undo quantisation"
        )
    ours = [p for p in ffn_parameters(model) if p.requires_grad]
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=cast(int, 2 * rank if alpha is None else alpha),  # a float is as good
        lora_dropout=0.0,
        target_modules=targets,
        fan_in_fan_out=isinstance(model.get_submodule(targets[0]), Conv1D),
    )
    with outdated_names():
        adapted = peft.get_peft_model(model, config)
    for parameter in ours:
        parameter.requires_grad_(True)
    assert isinstance(adapted, peft.PeftModel)
    return adapted


def attention_projections(model: nn.Module) -> list[str]:
    """The paths of the plain linear maps inside attention, by transformers' naming of classes."""
    attention = tuple(f"{name}." for name in attention_modules(model))
    return [
        name
        for name, module in model.named_modules()
        if type(module) in (nn.Linear, Conv1D) and name.startswith(attention)
    ]


def attention_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules whose class is named Attention, by path, but not those in components."""
    ours = {m for c in model.modules() if isinstance(c, FFNComponent) for m in c.modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if "Attention" in type(module).__name__ and module not in ours
    }


def ffn_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the replaced FFNs."""
    found = (p for m in model.modules() if isinstance(m, FFNComponent) for p in m.parameters())
    return list(dict.fromkeys(found))


def require_peft():
    """The `peft` package; an `UndenseError` with the remedy where it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise UndenseError("LoRA needs peft: pip install 'undense[peft]'") from error
    return peft


@contextmanager
def outdated_names() -> Iterator[None]:
    """peft 0.21 reads a property that transformers 5.23 has renamed, which warns its users."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        yield
