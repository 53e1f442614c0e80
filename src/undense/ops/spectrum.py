"""A filter over the coefficients of a transform: one small response a frequency, and its fit."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from undense import cost
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops.fft_transforms import CosineTransform, FourierTransform
from undense.ops.regression import reduced_rank
from undense.ops.transform import GivenTransform, Transform

Basis = Literal["fourier", "cosine", "eigen"]
BASES: tuple[str, ...] = ("fourier", "cosine", "eigen")


def candidates(basis: Basis, dim: int, k_freq: int) -> int:
    """How many frequencies there are to choose `k_freq` from: all of them; of the eigenbasis, whose
    analysis costs 2 dim FLOPs for each, the four best for each that is kept."""
    if basis == "eigen":
        return min(dim, 4 * k_freq)
    return (dim - 1) // 2 if basis == "fourier" else dim - 1


def transform(basis: Basis, dim: int, k_freq: int, component: str) -> Transform:
    """The transform of that name; an `UndenseError` where there is nothing to choose from."""
    found = candidates(basis, dim, k_freq)
    if k_freq >= found:
        raise UndenseError(
            f"{component}: k_freq={k_freq} leaves nothing to choose among the {max(found, 0)}"
            f" frequencies that dim={dim} has in the {basis} basis; use k_freq < {found}, or"
            " 'spectral', which keeps the ones that it is given"
        )
    if basis == "fourier":
        return FourierTransform(dim)
    return CosineTransform(dim) if basis == "cosine" else GivenTransform(dim, found)


def check(basis: str, k_freq: int, component: str) -> None:
    """Refuse settings that no width could have."""
    if k_freq < 1:
        raise UndenseError(f"{component}: k_freq={k_freq} must be at least 1")
    if basis not in BASES:
        raise UndenseError(f"{component}: basis={basis!r} must be 'fourier', 'cosine' or 'eigen'")


def respond(spectrum: Tensor, gain: Tensor, twist: Tensor | None) -> Tensor:
    """gain * c + twist * mirrored(c): `spectrum`, `gain`, `twist` (..., frequencies, width)."""
    filtered = spectrum * gain
    if twist is None:
        return filtered
    return filtered + spectrum.flip(-1) * twist


def fit_transform_(found: Transform, inputs: Tensor, targets: Tensor) -> None:
    """Place a transform that data give: the best linear map's directions, in and out."""
    if isinstance(found, GivenTransform):
        out, into, _ = reduced_rank(inputs, targets, found.modes)
        found.place_(into.T, out.T)


def responses(spectrum: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each frequency's modes regressed on themselves and each other, by itself.

    `spectrum`, `wanted` (rows, frequencies, width of 1 or 2), both centred here. Returns gain,
    twist (frequencies, width), twist 0 for width 1, and the energy explained (frequencies,).
    """
    x = (spectrum - spectrum.mean(0)).double()
    y = (wanted - wanted.mean(0)).double()
    gram = torch.einsum("nfi,nfj->fij", x, x)
    width = gram.shape[-1]
    level = gram.diagonal(dim1=1, dim2=2).mean(-1)
    # a frequency that no row has is given the response 0
    ridge = 1e-6 * level + 1e-12 * level.mean() + torch.finfo(torch.float64).tiny
    cross = torch.einsum("nfi,nfj->fij", x, y)
    solved = torch.linalg.solve(gram + ridge[:, None, None] * torch.eye(width), cross)
    energy = torch.einsum("fij,fij->f", solved, cross)
    gain = solved.diagonal(dim1=1, dim2=2)
    twist = solved.flip(1).diagonal(dim1=1, dim2=2) if width == 2 else torch.zeros_like(gain)
    dtype = spectrum.dtype
    return gain.to(dtype), twist.to(dtype), energy.clamp_min(0).to(dtype)


def respond_cost(name: str, tokens: int, modes: int, *, twisted: bool, stored: int) -> Cost:
    """What `respond` costs with `stored` gains and as many twists, the same for all tokens."""
    parts = [cost.gain("gain", tokens, modes, size=stored)]
    if twisted:
        parts += [
            cost.gain("twist", tokens, modes, size=stored),
            cost.add("sum", tokens * modes),
            cost.fan_out("spectrum read twice", tokens * modes, 2),
        ]
    return Cost.total(name, *parts)
