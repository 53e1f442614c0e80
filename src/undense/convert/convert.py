"""`convert_`: dense FFNs of a model replaced in place, each by a component started from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard, cast

import torch
from tqdm import tqdm
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from undense.contract import Config, DenseShape, FFNComponent, Statistics
from undense.convert import originals, strict
from undense.convert.batches import Batch
from undense.convert.classes import auto_classes, model_class, stock_class
from undense.convert.conversion import Calibration, Conversion, SiteConversion, describe
from undense.convert.families import Kind, family
from undense.convert.fit import fitted, unfitted
from undense.convert.self_sampling import self_sampled
from undense.convert.settle import settle_
from undense.convert.sites import Site, find_components, find_sites
from undense.convert.statistics import collect, evaluating
from undense.convert.swap import put
from undense.convert.targets import Targets, select
from undense.errors import UndenseError
from undense.ffn.presets import resolve

# What a config without weights is taken to be the config of.
USUAL: dict[Kind, str] = {
    "causal": "AutoModelForCausalLM",
    "encoder": "AutoModelForMaskedLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "vision": "AutoModel",
}

FFN = str | Config | Mapping[str, Any] | Callable[[DenseShape], Config]


def convert_(
    model: PreTrainedModel,
    ffn: FFN,
    *,
    targets: Targets | None = None,
    exclude: Targets | None = None,
    calibration: Iterable[Batch] | Batch | Mapping[str, Statistics] | None = None,
    seed: int = 0,
    keep_dense: bool = True,
) -> Conversion:
    """Replace FFNs of `model` in place, and make its class and config say so.

    `ffn`: a spec ("ultra-25", inline JSON, a JSON file), a config, or a function of the dense
    shape. `targets`, `exclude`: see `targets.py`. `calibration`: batches as `batches.py` says, or
    what `collect` returned; None lets a causal language model write text itself. `keep_dense`: keep
    the dense FFNs for `revert_`, outside the module tree: neither trained, nor moved, nor saved,
    but their memory is not freed.

    A dropout inside the dense FFN (GPT-2's) goes with it; a component has its own, if any. The fit
    is in fp32 on the CPU; the result has the dtype, device and mode of what it replaces.
    Nothing is changed before every site is fitted. On the meta device nothing is fitted. Raises
    `UndenseError` for whatever the user can mend.
    """
    sites = chosen(model, targets, exclude)
    plans = _plans(sites, ffn)
    label: Calibration = "none"
    new: dict[str, FFNComponent] = {}
    if any(site.on_meta for site in sites):
        _require_all_on_meta(model)
        new = {
            site.name: unfitted(site, planned.config)
            for site, planned in zip(sites, plans, strict=True)
        }
    else:
        for site in sites:
            site.dense()  # refuses NaN before any work
        label, statistics = _statistics(model, sites, calibration, seed)
        progress = tqdm(sites, desc="converting", leave=False, disable=None)
        for index, site in enumerate(progress):
            seen = statistics[site.name]
            new[site.name], error = fitted(site, plans[index].config, seen, seed=seed)
            plans[index] = replace(plans[index], relative_error=error)
    result = _result(model, plans, label, seed)
    _exchange(model, new, keep_dense=keep_dense)
    return result


def plan(
    model: PreTrainedModel | PreTrainedConfig | str | Path,
    ffn: FFN,
    *,
    targets: Targets | None = None,
    exclude: Targets | None = None,
) -> Conversion:
    """What `convert_` would do, figures only: nothing is loaded, fitted or changed.

    `model`: a model, its config, or a folder or hub name, of which only `config.json` is read.
    """
    whole = model if isinstance(model, PreTrainedModel) else skeleton(model)
    return _result(whole, _plans(chosen(whole, targets, exclude), ffn), "none", 0)


def chosen(model: PreTrainedModel, targets: Targets | None, exclude: Targets | None) -> list[Site]:
    """The dense FFNs that the targets mean; an `UndenseError` where there is none."""
    if not isinstance(model, PreTrainedModel):
        raise UndenseError(
            f"expected a Hugging Face model, got {type(model).__name__}; of a PEFT model, pass"
            " model.merge_and_unload()"
        )
    model_class(stock_class(model))  # refuses a class that no saved folder could name
    sites = {site.name: site for site in find_sites(model)}
    if not sites:
        done = find_components(model)
        raise UndenseError(
            f"all {len(done)} FFNs of this model are converted; undense.revert_(model) first"
            if done
            else f"{type(model).__name__} has no dense FFN of its family to convert"
        )
    names = select({name: site.layer for name, site in sites.items()}, targets, exclude)
    return [sites[name] for name in names]


def skeleton(source: PreTrainedConfig | str | Path) -> PreTrainedModel:
    """The model of a config, without memory; its folder's weights are not read."""
    if not isinstance(source, PreTrainedConfig):
        with strict.readable(source):
            source = cast(PreTrainedConfig, AutoConfig.from_pretrained(source))
    family(source.model_type)  # refuse an unknown family before building it
    with torch.device("meta"):
        return _auto_class(source).from_config(source)


def _auto_class(config: PreTrainedConfig) -> Any:
    """The Auto class of the head that the config was saved with, else of the family's usual one."""
    known = {auto.__name__: auto for auto in auto_classes() if type(config) in auto._model_mapping}
    saved = (config.architectures or [""])[0]
    for auto in known.values():
        found = auto._model_mapping[type(config)]
        if saved in [cls.__name__ for cls in (found if isinstance(found, tuple) else (found,))]:
            return auto
    return known[USUAL[family(config.model_type).kind]]


def _plans(sites: list[Site], ffn: FFN) -> list[SiteConversion]:
    """The replacement of each site with its figures; specs are resolved once for each shape."""
    make = ffn if callable(ffn) and not isinstance(ffn, Config) else None
    configs = {
        shape: make(shape) if make else resolve(ffn, shape)  # type: ignore[arg-type]
        for shape in dict.fromkeys(site.shape for site in sites)
    }
    return [describe(site, configs[site.shape]) for site in sites]


def _statistics(
    model: PreTrainedModel,
    sites: list[Site],
    calibration: Iterable[Batch] | Batch | Mapping[str, Statistics] | None,
    seed: int,
) -> tuple[Calibration, Mapping[str, Statistics]]:
    if _collected(calibration):
        missing = [site.name for site in sites if site.name not in calibration]
        if missing:
            raise UndenseError(
                f"the statistics given lack {', '.join(missing)}; collect them for every site that"
                " is converted"
            )
        return "given", calibration
    if calibration is None:
        with evaluating(model), torch.no_grad():
            batches = self_sampled(model, seed=seed)
        return "self-sampled", collect(model, sites, batches, seed=seed)
    batches = cast(Iterable[Batch] | Batch, calibration)
    return "given", collect(model, sites, batches, seed=seed)


def _collected(calibration: object) -> TypeGuard[Mapping[str, Statistics]]:
    """Whether this is what `collect` returns, not a batch or several."""
    return isinstance(calibration, Mapping) and all(
        isinstance(value, Statistics) for value in calibration.values()
    )


def _exchange(model: PreTrainedModel, new: dict[str, FFNComponent], *, keep_dense: bool) -> None:
    """Put the components in; the model is as it was if it could not be saved afterwards."""
    dense = {name: put(model, name, component) for name, component in new.items()}
    try:
        settle_(model)
    except UndenseError:
        for name, module in dense.items():
            put(model, name, module)
        raise
    if keep_dense:
        originals.keep(model, dense)


def _result(
    model: PreTrainedModel, plans: list[SiteConversion], calibration: Calibration, seed: int
) -> Conversion:
    return Conversion(
        model_type=family(model.config.model_type).model_type,
        sites=tuple(plans),
        calibration=calibration,
        seed=seed,
        model_parameters_before=model.num_parameters(),
    )


def _require_all_on_meta(model: PreTrainedModel) -> None:
    if not all(parameter.is_meta for parameter in model.parameters()):
        raise UndenseError(
            "some weights are on the meta device and some are not (offloaded?); load the model"
            " whole, on the CPU or on one device, before converting"
        )
