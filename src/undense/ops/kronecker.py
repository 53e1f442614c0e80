"""Sum of Kronecker products, W = sum_t A_t x B_t, applied without forming W.

For x read as a matrix X (a, b), A_t (i, a) and B_t (j, b): (A_t x B_t) x = A_t X B_t^T, two small
products. Closed form: C. Van Loan and N. Pitsianis, "Approximation with Kronecker products", 1993:
the rearrangement whose rows are the tiles of W turns the sum into a matrix of rank `terms`, so that
its SVD is optimal. Differs: from there on alternating least squares, weighted by the second moment
of the inputs.
"""

from __future__ import annotations

from dataclasses import replace
from math import isqrt

import torch
from torch import Tensor, nn

from undense import cost
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops.block_linear import BlockLinear
from undense.ops.linear_map import Leaf, LinearMap, matrix
from undense.ops.regression import steadied

SWEEPS = 20  # at most; sweeps stop when the error falls by less than a thousandth


def split(width: int) -> tuple[int, int]:
    """The two factors of `width` that are closest to its root, the smaller one first."""
    small = next(k for k in range(isqrt(width), 0, -1) if width % k == 0)
    return small, width // small


def rearranged(weight: Tensor, outer: tuple[int, int], inner: tuple[int, int]) -> Tensor:
    """Van Loan's rearrangement: (i * j, a * b) -> (i * a, j * b), with A (i, a) and B (j, b).

    A Kronecker product becomes the outer product of its two factors, flattened.
    """
    (i, a), (j, b) = outer, inner
    return weight.reshape(i, j, a, b).transpose(1, 2).reshape(i * a, j * b)


class KroneckerLinear(LinearMap):
    """x -> (sum_t A_t x B_t) x + b: `first` holds the B_t, `last` the A_t.

    Widths are split as near to their roots as they divide, so that the products are smallest; a
    prime width leaves nothing to gain. Shapes: `first` (terms * j, b), `last` (i, a * terms).
    """

    def __init__(
        self, fan_in: int, fan_out: int, *, terms: int, bias: bool, leaf: Leaf = BlockLinear
    ) -> None:
        super().__init__(fan_in, fan_out)
        self.a, self.b = split(fan_in)
        self.j, self.i = split(fan_out)
        most = min(self.i * self.a, self.j * self.b)
        if not 1 <= terms <= most:
            raise UndenseError(
                f"Kronecker map {fan_in} -> {fan_out}: terms={terms} must be between 1 and {most},"
                " which can express every matrix"
            )
        self.terms = terms
        self.first = leaf(self.b, terms * self.j, blocks=1, bias=False)
        self.last = leaf(self.a * terms, self.i, blocks=1, bias=False)
        self.bias = nn.Parameter(torch.zeros(fan_out)) if bias else None

    def features(self, x: Tensor) -> Tensor:
        """What the last factor reads: (..., fan_in) -> (..., j, a * terms)."""
        inner = self.first(x.unflatten(-1, (self.a, self.b)))
        return inner.unflatten(-1, (self.terms, self.j)).movedim(-1, -3).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.features(x)).transpose(-1, -2).flatten(-2)
        return y if self.bias is None else y + self.bias

    def outputs(self) -> list[nn.Parameter]:
        return [*self.last.outputs(), *([] if self.bias is None else [self.bias])]

    def cost(self, name: str, tokens: int) -> Cost:
        parts = [
            self.first.cost("first factor", tokens * self.a),
            self.last.cost("last factor", tokens * self.j),
        ]
        if self.bias is not None:
            shift = cost.elementwise("bias", tokens * self.fan_out, backward=1, macs=0)
            parts.append(replace(shift, weights=self.fan_out))
        return Cost.total(name, *parts)

    def approximate_(self, weight: Tensor, bias: Tensor | None, gram: Tensor) -> None:
        """Van Loan's SVD, then A and B in turn by least squares given the other, so that the error
        on inputs with this second moment never rises."""
        moments = _Moments(weight.double(), gram.double(), self)
        b, a = moments.van_loan(self.terms)
        error = torch.inf
        for _ in range(SWEEPS):
            b = moments.solve_inner(a)
            a = moments.solve_outer(b)
            before, error = error, moments.error(a, b)
            if error > 0.999 * before:
                break
        self.first.set_blocks_(b.reshape(1, self.terms * self.j, self.b))
        self.last.set_blocks_(a.reshape(1, self.i, self.a * self.terms))
        stored = matrix(self.first).double().view(self.terms, self.j, self.b)
        self.last.solve_(*moments.of_outer(stored))
        if self.bias is not None:
            self.bias.data.copy_(torch.zeros_like(self.bias) if bias is None else bias)

    def refit_(self, inputs: Tensor, targets: Tensor) -> None:
        """One A for all j, each output with its own shift where there is a bias."""
        features = self.features(inputs).detach()
        wanted = targets.view(-1, self.i, self.j).transpose(1, 2)
        x, y = (features, wanted)
        if self.bias is not None:
            x, y = (features - features.mean(0), wanted - wanted.mean(0))
        self.last.refit_(x.flatten(0, 1), y.flatten(0, 1))
        if self.bias is not None:
            told = self.last(features.mean(0)).detach()
            self.bias.data.copy_((wanted.mean(0) - told).T.flatten())


class _Moments:
    """Least squares for one side of the product given the other, from second moments alone.

    Letters of the sums: W[i j, a b], A[i, a, t], B[t, j, b], G[a b, c d]; s is t's twin.
    """

    def __init__(self, weight: Tensor, gram: Tensor, of: KroneckerLinear) -> None:
        self.shape = (of.i, of.j, of.a, of.b)
        self.weight = weight
        self.gram = gram.reshape(of.a, of.b, of.a, of.b)
        self.cross = (weight @ gram).reshape(self.shape)

    def van_loan(self, terms: int) -> tuple[Tensor, Tensor]:
        """The best B (terms, j, b) and A (i, a, terms) for inputs that are white."""
        i, j, a, b = self.shape
        left, singular, right = torch.linalg.svd(
            rearranged(self.weight, (i, a), (j, b)), full_matrices=False
        )
        root = singular[:terms].sqrt()
        return (
            (root[:, None] * right[:terms]).reshape(terms, j, b),
            (left[:, :terms] * root).reshape(i, a, terms),
        )

    def of_outer(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """Second moments of what A reads: (a * t, a * t), and with its targets (i, a * t)."""
        pairs = torch.einsum("tjb,sjd->tbsd", b, b)
        seen = torch.einsum("tbsd,abcd->atcs", pairs, self.gram)
        cross = torch.einsum("ijab,tjb->iat", self.cross, b)
        size = seen.shape[0] * seen.shape[1]
        return seen.reshape(size, size), cross.reshape(-1, size)

    def solve_outer(self, b: Tensor) -> Tensor:
        seen, cross = self.of_outer(b)
        return torch.linalg.solve(steadied(seen), cross.T).T.reshape(
            self.shape[0], self.shape[2], -1
        )

    def solve_inner(self, a: Tensor) -> Tensor:
        pairs = torch.einsum("iat,ics->atcs", a, a)
        seen = torch.einsum("atcs,abcd->tbsd", pairs, self.gram)
        cross = torch.einsum("ijab,iat->jtb", self.cross, a)
        size = seen.shape[0] * seen.shape[1]
        solved = torch.linalg.solve(
            steadied(seen.reshape(size, size)), cross.reshape(-1, size).T
        )  # (t * b, j)
        return solved.T.reshape(-1, a.shape[-1], self.shape[3]).transpose(0, 1)

    def error(self, a: Tensor, b: Tensor) -> float:
        """Squared error on the inputs, less its constant ||W G^(1/2)||^2 taken off again."""
        seen, cross = self.of_outer(b)
        flat = a.reshape(a.shape[0], -1)
        whole = (self.weight.reshape(self.shape) * self.cross).sum()
        return float(whole - 2 * (cross * flat).sum() + ((flat @ seen) * flat).sum())
