"""Closed-form fits behind every start from dense weights: ridge, reduced rank, whitened SVD."""

from __future__ import annotations

import torch
from torch import Tensor

# Relative to the mean diagonal of the Gram matrix: large enough that a sample of a few thousand
# tokens does not overfit, small enough not to bias the fit (measured on GPT-2-like activations).
RIDGE = 1e-4
# With fewer rows a feature than this the strength is chosen on rows that the fit does not see: at
# RIDGE such a fit can predict new rows worse than their mean does.
FEW_ROWS = 8
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e4)  # the last is the mean, but for directions
HELD_OUT = 5  # one row in so many


class Ridge:
    """Least squares on fixed features, for one target after another, in fp64.

    With an intercept on centred data; the penalty relative to the features' mean variance.
    """

    def __init__(
        self, features: Tensor, *, strength: float = RIDGE, intercept: bool = True
    ) -> None:
        x = features.double()
        self.intercept = intercept
        self.mean = self._mean(x)
        self.centred = x - self.mean
        self.gram = self.centred.T @ self.centred
        self.diagonal = self.gram.diagonal().clone()
        self.strengthen(strength)

    def strengthen(self, strength: float) -> None:
        """Take another penalty."""
        penalty = strength * self.diagonal.mean() + torch.finfo(torch.float64).tiny
        self.gram.diagonal().copy_(self.diagonal + penalty)
        self.factors = torch.linalg.lu_factor(self.gram)

    def solve(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """targets ≈ features @ weight + bias: (rows, outputs) -> (inputs, outputs), (outputs,)."""
        y = targets.double()
        y_mean = self._mean(y)
        weight = torch.linalg.lu_solve(*self.factors, self.centred.T @ (y - y_mean))
        bias = y_mean - self.mean @ weight
        return weight.to(targets.dtype), bias.to(targets.dtype)

    def _mean(self, rows: Tensor) -> Tensor:
        return rows.mean(0) if self.intercept else rows.new_zeros(rows.shape[1])


def ridge(
    features: Tensor, targets: Tensor, *, strength: float | None = None, intercept: bool = True
) -> tuple[Tensor, Tensor]:
    """Least squares: targets ≈ features @ weight + bias, bias 0 without an intercept.

    `features` (rows, inputs), `targets` (rows, outputs); returns (inputs, outputs) and (outputs,).
    `strength`: None is `RIDGE` where there are rows enough, else what predicts held-out rows best.
    """
    if strength is None:
        rows, inputs = features.shape
        few = HELD_OUT <= rows < FEW_ROWS * inputs
        strength = _best_strength(features, targets, intercept=intercept) if few else RIDGE
    return Ridge(features, strength=strength, intercept=intercept).solve(targets)


def _best_strength(features: Tensor, targets: Tensor, *, intercept: bool) -> float:
    """The strength whose fit to four fifths of the rows predicts the others best."""
    held = torch.arange(len(features)) % HELD_OUT == HELD_OUT - 1
    fit = Ridge(features[~held], intercept=intercept)
    errors = []
    for strength in STRENGTHS:
        fit.strengthen(strength)
        weight, bias = fit.solve(targets[~held])
        errors.append(float((features[held] @ weight + bias - targets[held]).square().sum()))
    return STRENGTHS[errors.index(min(errors))]


def reduced_rank(features: Tensor, targets: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best linear map of a given rank, in the sense of squared error on the sample.

    Returns orthonormal-column `out` (outputs, rank), `into` (inputs, rank) with unit columns, and
    `gains` (rank,): targets - mean ≈ (features - mean) @ into * gains @ out.T.
    """
    weight, _ = ridge(features, targets)
    fitted = (features - features.mean(0)) @ weight
    _, vectors = torch.linalg.eigh((fitted.T @ fitted).double())
    out = vectors.flip(-1)[:, :rank].to(targets.dtype)
    into = weight @ out
    gains = into.norm(dim=0)
    return out, into / gains.clamp_min(torch.finfo(into.dtype).tiny), gains


def whitened_svd(weight: Tensor, gram: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors of `weight` (outputs, inputs) that lose least on inputs with second moment `gram`.

    min ||(W - A B) G^(1/2)||: SVD of W G^(1/2), the root undone on the right factor. Returns
    A (outputs, rank) and B (rank, inputs), the singular values split evenly. With fewer outputs
    than inputs, from the eigenvectors U of W G W^T: the same A B = U U^T W without the root.
    """
    if weight.shape[0] < weight.shape[1]:
        square, vectors = torch.linalg.eigh(weight.double() @ gram.double() @ weight.double().T)
        floor = square.max() * 1e-14 + torch.finfo(torch.float64).tiny
        scale = square.clamp_min(floor).flip(0)[:rank] ** 0.25
        left = vectors.flip(1)[:, :rank]
        into = (left / scale).T @ weight.double()
        return (left * scale).to(weight.dtype), into.to(weight.dtype)
    values, vectors = torch.linalg.eigh(gram.double())
    floor = values.max() * 1e-7 + torch.finfo(torch.float64).tiny
    root = values.clamp_min(floor).sqrt()
    left, singular, right = torch.linalg.svd(
        weight.double() @ (vectors * root), full_matrices=False
    )
    rank = min(rank, singular.numel())
    scale = singular[:rank].sqrt()
    into = (scale[:, None] * right[:rank]) @ (vectors / root).T
    return (left[:, :rank] * scale).to(weight.dtype), into.to(weight.dtype)


def block_solution(gram: Tensor, cross: Tensor, blocks: int) -> Tensor:
    """Diagonal blocks (blocks, outputs, inputs) of least squares from second moments: `gram`
    (fan_in, fan_in) of the inputs, `cross` (fan_out, fan_in) of the targets with the inputs."""
    outputs, inputs = (cross.shape[0] // blocks, cross.shape[1] // blocks)
    solved = []
    for k in range(blocks):
        rows = slice(k * outputs, (k + 1) * outputs)
        columns = slice(k * inputs, (k + 1) * inputs)
        block = steadied(gram[columns, columns].double())
        solved.append(torch.linalg.solve(block, cross[rows, columns].double().T).T)
    return torch.stack(solved)


def steadied(gram: Tensor) -> Tensor:
    """Second moments (..., n, n) with a millionth of their mean variance on the diagonal."""
    mean = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    penalty = 1e-6 * mean + torch.finfo(gram.dtype).tiny
    return gram + penalty * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
