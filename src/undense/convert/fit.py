"""Fitting one component to the dense FFN that it replaces, and measuring how close it starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from undense import contract
from undense.contract import Config, FFNComponent, Statistics
from undense.convert.sites import Site

# One row in so many is kept from the fit, to measure it by.
HELD_OUT = 8


def fitted(
    site: Site, config: Config, statistics: Statistics, *, seed: int = 0
) -> tuple[FFNComponent, float]:
    """The component started from the site's weights, and |new - dense| / |dense| on rows of the
    sample that the fit did not see.

    The fit is in fp32 on the CPU, whatever the site; the component then takes the site's dtype,
    device and mode. The caller's random state is untouched.
    """
    rows = statistics.inputs
    held = torch.arange(len(rows)) % HELD_OUT == HELD_OUT - 1
    dense = site.dense()
    with _reproducible(seed, site.layer), torch.no_grad():
        component = contract.from_dense(dense, config, Statistics(inputs=rows[~held]))
        error = _relative(component.eval()(rows[held]), dense(rows[held]))
    return _like(component, site), error


def unfitted(site: Site, config: Config) -> FFNComponent:
    """The component on the meta device, for a dry run."""
    with torch.device("meta"):
        return _like(contract.build(site.shape.dim, config), site)


def _like(component: FFNComponent, site: Site) -> FFNComponent:
    """In the dtype, on the device and in the mode of the FFN that it replaces."""
    reference = next(site.module.parameters())
    component.to(device=reference.device, dtype=reference.dtype)
    return component.train(site.module.training)


def _relative(output: Tensor, wanted: Tensor) -> float:
    """|output - wanted| / |wanted|, Frobenius norms; 0 where both are zero."""
    scale = wanted.double().norm().clamp_min(torch.finfo(torch.float64).tiny)
    return float((output.double() - wanted.double()).norm() / scale)


@contextmanager
def _reproducible(seed: int, layer: int) -> Iterator[None]:
    """fp32 on the CPU, from random numbers of this seed and layer; the caller's are untouched."""
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed((seed << 16) + layer)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
