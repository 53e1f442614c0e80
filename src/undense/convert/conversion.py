"""What a conversion did, or would do: per site and in total, before and after."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import torch
from rich import box
from rich.table import Table

from undense.contract import Config, DenseShape, abstract_cost, build, config_from_dict
from undense.convert.sites import Site
from undense.cost import Cost

Calibration = Literal["self-sampled", "given", "none"]


@dataclass(frozen=True, kw_only=True)
class SiteConversion:
    """One FFN before and after. Costs are for one token; `buffers_after` are stored numbers that
    are not trained. `relative_error`: |new - dense| / |dense| of the closed-form start, on the
    eighth of the calibration rows that the fit did not see; None where nothing was fitted."""

    name: str
    shape: DenseShape
    config: Config
    cost_before: Cost
    cost_after: Cost
    parameters_before: int
    parameters_after: int
    buffers_after: int
    relative_error: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; costs as trees."""
        return {
            "name": self.name,
            "shape": asdict(self.shape),
            "config": self.config.to_dict(),
            "flops_before": self.cost_before.forward,
            "flops_after": self.cost_after.forward,
            "parameters_before": self.parameters_before,
            "parameters_after": self.parameters_after,
            "buffers_after": self.buffers_after,
            "relative_error": self.relative_error,
            "cost_before": self.cost_before.to_dict(),
            "cost_after": self.cost_after.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """All sites of one conversion, in the order of the layers.

    `calibration` says what the closed-form starts were fitted on: the batches given, text that the
    model wrote itself, or nothing (a dry run). FLOPs are for one token, all converted sites.
    """

    model_type: str
    sites: tuple[SiteConversion, ...]
    calibration: Calibration
    seed: int
    model_parameters_before: int

    @property
    def flops_before(self) -> int:
        """FLOPs of the dense FFNs that are replaced."""
        return sum(site.cost_before.forward for site in self.sites)

    @property
    def flops_after(self) -> int:
        """FLOPs of what replaces them."""
        return sum(site.cost_after.forward for site in self.sites)

    @property
    def parameters_before(self) -> int:
        """Parameters of the dense FFNs that are replaced."""
        return sum(site.parameters_before for site in self.sites)

    @property
    def parameters_after(self) -> int:
        """Parameters of what replaces them."""
        return sum(site.parameters_after for site in self.sites)

    @property
    def buffers_after(self) -> int:
        """Stored numbers of what replaces them that are not trained."""
        return sum(site.buffers_after for site in self.sites)

    @property
    def model_parameters_after(self) -> int:
        """Parameters of the whole model once converted."""
        return self.model_parameters_before - self.parameters_before + self.parameters_after

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, totals first."""
        return {
            "model_type": self.model_type,
            "calibration": self.calibration,
            "seed": self.seed,
            "flops_before": self.flops_before,
            "flops_after": self.flops_after,
            "parameters_before": self.parameters_before,
            "parameters_after": self.parameters_after,
            "buffers_after": self.buffers_after,
            "model_parameters_before": self.model_parameters_before,
            "model_parameters_after": self.model_parameters_after,
            "sites": [site.to_dict() for site in self.sites],
        }

    def table(self) -> Table:
        """One row a site and a total: replacement, FLOPs, stored numbers, error."""
        origin = {
            "self-sampled": "fitted on text that the model wrote itself",
            "given": "fitted on the text given",
            "none": "not fitted",
        }
        table = Table(
            title=f"{self.model_type}: {len(self.sites)} FFNs",
            caption=f"FLOPs for one token; {origin[self.calibration]}",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        table.add_column("site", no_wrap=True)
        table.add_column("becomes", no_wrap=True)
        for heading in ("FLOPs", "share", "stored", "share", "error"):
            table.add_column(heading, justify="right", no_wrap=True)
        for site in self.sites:
            error = site.relative_error
            table.add_row(
                site.name,
                site.config.component,
                *_change(site.cost_before.forward, site.cost_after.forward),
                *_change(site.parameters_before, site.parameters_after + site.buffers_after),
                "" if error is None else f"{error:.3f}",
            )
        table.add_section()
        table.add_row(
            "total",
            "",
            *_change(self.flops_before, self.flops_after),
            *_change(self.parameters_before, self.parameters_after + self.buffers_after),
            "",
        )
        return table


def describe(site: Site, config: Config, *, relative_error: float | None = None) -> SiteConversion:
    """The figures of replacing `site` by `config`, without memory for either.

    Raises `UndenseError` where the component cannot be built at the site's width.
    """
    cost, parameters, buffers = _sizes(site.shape.dim, json.dumps(config.to_dict()))
    return SiteConversion(
        name=site.name,
        shape=site.shape,
        config=config,
        cost_before=_dense_cost(site.shape),
        cost_after=cost,
        parameters_before=site.parameters,
        parameters_after=parameters,
        buffers_after=buffers,
        relative_error=relative_error,
    )


@cache
def _sizes(dim: int, config: str) -> tuple[Cost, int, int]:
    """Inference cost for one token, parameters, and stored buffers of a component as JSON."""
    with torch.device("meta"):
        component = build(dim, config_from_dict(json.loads(config))).eval()
    parameters = sum(parameter.numel() for parameter in component.parameters())
    buffers = sum(buffer.numel() for buffer in component.buffers())
    return component.cost(1), parameters, buffers


@cache
def _dense_cost(shape: DenseShape) -> Cost:
    """What the dense FFN of this shape costs for one token."""
    name = "gated_dense" if shape.gated else "dense"
    sizes = {"hidden": shape.hidden, "activation": shape.activation, "bias": shape.bias}
    return abstract_cost(shape.dim, config_from_dict({"component": name, **sizes}))


def _change(before: int, after: int) -> tuple[str, str]:
    return _short(after), f"{100 * after / before:.1f}%" if before else "–"


def _short(number: int) -> str:
    """Four digits and a unit, so that a row fits a terminal; `to_dict` has the exact figure."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.4g}{unit}"
    return str(number)
