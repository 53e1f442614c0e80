"""The FFNs of a converted model alone, as an adapter is saved: `ffns.json`, `ffns.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from undense.contract import FFNComponent, build, config_from_dict
from undense.convert import originals, strict
from undense.convert.classes import model_class, stock_class
from undense.convert.families import family
from undense.convert.folders import written_whole
from undense.convert.settle import settle_
from undense.convert.sites import base_key, find_components, full_name
from undense.convert.swap import put
from undense.errors import UndenseError
from undense.ops.derived import fill
from undense.train.lora import ffn_parameters, outdated_names, require_peft

if TYPE_CHECKING:
    from peft import PeftModel

CONFIGS = "ffns.json"
TENSORS = "ffns.safetensors"
FORMAT = 1


def save_ffns(model: PreTrainedModel, folder: str | Path) -> Path:
    """Write the FFNs of `model` and their configs into `folder`, whole or not at all.

    Raises `UndenseError` for a model without components and for a folder of something else.
    """
    target = Path(folder)
    description, tensors = _described(model)
    with written_whole(target, marker=CONFIGS) as temporary:
        _write(description, tensors, temporary)
    return target


def save_adapters(adapted: PeftModel, folder: str | Path) -> Path:
    """Write what `add_lora_` trains, and that alone: PEFT's adapters and, beside them, the FFNs.

    Raises `UndenseError` as `save_ffns` does.
    """
    target = Path(folder)
    model = cast(PreTrainedModel, adapted.get_base_model())
    description, tensors = _described(model)
    with written_whole(target, marker=CONFIGS) as temporary:
        adapted.save_pretrained(str(temporary), save_embedding_layers=False)
        _write(description, tensors, temporary)
    return target


def load_adapters_(
    model: PreTrainedModel, folder: str | Path, *, trainable: bool = False
) -> PeftModel:
    """Put the FFNs and adapters of `folder` into `model`, dense or converted, in place.

    Returns PEFT's view; `merge_and_unload()` of it gives the model without adapters. `trainable`:
    both go on learning, the rest is frozen. Raises `UndenseError` where something does not fit.
    """
    peft = require_peft()
    if not (Path(folder) / "adapter_config.json").is_file():
        raise UndenseError(
            f"{folder} holds no adapters; give the folder that save_adapters wrote, or use"
            " load_ffns_ for FFNs alone"
        )
    load_ffns_(model, folder)
    with outdated_names():
        adapted = peft.PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    for parameter in ffn_parameters(model) if trainable else ():
        parameter.requires_grad_(True)
    return adapted


def _described(model: PreTrainedModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    components = {base_key(model, n): c for n, c in find_components(model).items()}
    if not components:
        raise UndenseError(f"{type(model).__name__} holds no undense FFN; convert_ it first")
    description = {
        "format": FORMAT,
        "family": family(model.config.model_type).model_type,
        "hidden_size": model.config.hidden_size,
        "ffns": {key: component.config.to_dict() for key, component in components.items()},
    }
    tensors = {
        f"{key}.{name}": tensor.detach().cpu().contiguous()
        for key, component in components.items()
        for name, tensor in component.state_dict().items()
    }
    return description, tensors


def _write(description: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> None:
    (folder / CONFIGS).write_text(json.dumps(description, indent=2) + "\n")
    safetensors.torch.save_file(tensors, folder / TENSORS, metadata={"format": "pt"})


def load_ffns_(model: PreTrainedModel, folder: str | Path, *, keep_dense: bool = True) -> None:
    """Put the FFNs of `folder` into `model`, in place of dense or of other ones at the same sites.

    Strict: every name and shape must match. They take the model's dtype and device. Raises
    `UndenseError`, having changed nothing, where something does not fit.
    """
    model_class(stock_class(model))  # refuses a class that no saved folder could name
    path = Path(folder)
    description = _description(path)
    kind = family(model.config.model_type)
    expected = {"family": kind.model_type, "hidden_size": model.config.hidden_size}
    for what, here in expected.items():
        if description.get(what) != here:
            raise UndenseError(
                f"{path}: its FFNs were saved from a model with {what}={description.get(what)!r},"
                f" but this one has {here!r}"
            )
    with strict.readable(path), safe_open(path / TENSORS, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    new = _components(model, description["ffns"], tensors, path)
    before = {}
    for name, component in new.items():
        site = model.get_submodule(name)
        component.to(device=model.device, dtype=model.dtype)
        before[name] = put(model, name, component.train(site.training))
    settle_(model)
    if keep_dense:
        originals.keep(model, {n: m for n, m in before.items() if not isinstance(m, FFNComponent)})


def _description(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads((path / CONFIGS).read_text())
    except (OSError, ValueError) as error:
        raise UndenseError(
            f"{path} holds no saved FFNs: {CONFIGS} cannot be read ({error}); give the folder that"
            " save_ffns wrote"
        ) from error
    if not isinstance(values, Mapping) or values.get("format") != FORMAT or "ffns" not in values:
        raise UndenseError(f"{path / CONFIGS} is not of format {FORMAT}, which this version reads")
    return values


def _components(
    model: PreTrainedModel,
    configs: Mapping[str, Any],
    tensors: dict[str, Tensor],
    path: Path,
) -> dict[str, FFNComponent]:
    """The components with their tensors, by path in `model`; every name and shape accounted for."""
    kind = family(model.config.model_type)
    places = {name for name, _ in model.named_modules()}
    new = {}
    problems = []
    unused = set(tensors)
    for key, values in configs.items():
        name = full_name(model, key)
        if kind.layer(key) is None or name not in places:
            raise UndenseError(f"{path} has an FFN for {key!r}, which this model does not have")
        with torch.device("meta"):
            component = build(model.config.hidden_size, config_from_dict(values))
        state = {}
        for part, wanted in component.state_dict().items():
            tensor = tensors.get(f"{key}.{part}")
            unused.discard(f"{key}.{part}")
            if tensor is None:
                problems.append(f"{key}.{part} is missing")
            elif tensor.shape != wanted.shape:
                shapes = f"{tuple(tensor.shape)}, not {tuple(wanted.shape)}"
                problems.append(f"{key}.{part} is {shapes}")
            else:
                state[part] = tensor
        if len(state) == len(component.state_dict()):
            component.load_state_dict(state, assign=True)
            fill(component)
        new[name] = component
    problems += [f"{name} is unexpected" for name in sorted(unused)]
    if problems:
        raise UndenseError(f"{path}: {'; '.join(problems[:6])}; save the FFNs again")
    return new
