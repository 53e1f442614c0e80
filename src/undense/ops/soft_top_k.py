"""Learned choice of k among n candidates: a hard choice on the way out, a soft one's gradient back.

Source: LapSum, https://arxiv.org/abs/2503.06242. Differs: the output is that of the hard choice, so
training and inference compute the same function; only the gradient is the soft one's. The scores
move apart as they are learned, which sharpens the soft choice by itself: there is no schedule.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undense import cost
from undense.cost import Cost

# Width of the soft boundary between in and out. Scores start within it, so that every candidate
# has a gradient, and AdamW at 1e-3 crosses it in about a hundred steps.
TEMPERATURE = 0.1
# Scores further than this from the boundary (in temperatures) have a share of 0 or 1 in fp64.
_FAR = 300.0


def threshold(score: Tensor, count: int) -> Tensor:
    """The b for which the soft shares add up to `count`: sum_i Laplace((score_i - b) / T) = count.

    Closed form: between two neighbouring scores the sum is j - P e^b / 2 + Q e^-b / 2, a quadratic
    in e^b; sums over the sorted scores say between which two. `score` (..., n); returns (..., 1).
    """
    scaled = score.detach().double() / TEMPERATURE
    pivot = scaled.topk(count, -1).values[..., -1:]
    z = (scaled - pivot).clamp(-_FAR, _FAR).sort(-1, descending=True).values
    growing, falling = z.exp(), (-z).exp()
    before = falling.cumsum(-1)  # P after the first 1 … n scores
    after = growing.flip(-1).cumsum(-1).flip(-1)  # Q before the first … n-th score
    edge = torch.zeros_like(pivot)
    later = torch.cat([after[..., 1:], edge], -1)
    rank = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype, device=z.device)
    at_scores = rank + (later * falling - before * growing) / 2
    place = (at_scores <= count).sum(-1, keepdim=True)
    p = torch.cat([edge, before], -1).gather(-1, place)
    q = torch.cat([after, edge], -1).gather(-1, place)
    rest = count - place.double()
    root = (rest * rest + p * q).sqrt()
    # the same root in two forms, each free of cancellation on its side
    solved = torch.where(rest >= 0, q / (rest + root), (root - rest) / p)
    return (solved.log() + pivot) * TEMPERATURE


class LearnedSelection(nn.Module):
    """Which `count` of `candidates` are kept, in each of `rows` rows; learned with the rest.

    Hard on the way out: values of the `count` largest scores pass, the others are exactly 0. On the
    way back a value receives its share of the gradient, and a score what its share is worth:
    share_i = Laplace((score_i - b) / T), d share = (diag f - f f^T / sum f) d score, f the density.
    So a candidate that is out still learns, and comes in where it serves the loss better.
    Shapes: `score` (rows, candidates).
    """

    def __init__(self, rows: int, candidates: int, count: int) -> None:
        super().__init__()
        assert 1 <= count < candidates, (count, candidates)
        self.count = count
        # The first candidates are kept at the start, by a hair.
        slope = torch.linspace(TEMPERATURE, -TEMPERATURE, candidates) / 2
        self.score = nn.Parameter(slope.expand(rows, -1).clone())

    def start_(self, worth: Tensor) -> None:
        """Scores in the order of `worth` (rows, candidates), at least 0, the boundary soft."""
        log = (worth + 1e-12 * worth.mean() + torch.finfo(worth.dtype).tiny).log()
        spread = (log - log.mean(-1, keepdim=True)) / log.std(-1, keepdim=True).clamp_min(1e-6)
        self.score.data.copy_(TEMPERATURE * spread)

    def kept(self) -> Tensor:
        """Indices of the kept candidates, ascending: (rows, count)."""
        return self.score.detach().topk(self.count, -1).indices.sort(-1).values

    def choose(self, values: Tensor) -> Tensor:
        """`values` (rows, candidates, width) where kept, exactly 0 elsewhere; the soft gradient."""
        score = self.score.to(torch.promote_types(self.score.dtype, torch.float32))
        distance = (score.detach() - threshold(score, self.count).to(score.dtype)) / TEMPERATURE
        density = (-distance.abs()).exp() / 2
        share = torch.where(distance > 0, 1 - density, density)
        # zero, with the derivative of the shares: the constants in it have no gradient
        level = (density * score).sum(-1, keepdim=True) / density.sum(-1, keepdim=True)
        moving = density / TEMPERATURE * (score - level)
        open_ = (share + (moving - moving.detach())).unsqueeze(-1)
        hard = torch.zeros_like(score).scatter(-1, self.kept(), 1.0).unsqueeze(-1)
        passing = values * hard
        # One that is out sees a gradient that its own size does not change: unbounded, it would
        # grow until it does harm when it comes in, and go out again. (Bounded by those that are in
        # alone, nothing could grow once those turned out useless and shrank to 0.)
        size = values.detach().abs()
        # Twice, so that none that is in lies on the bound, where half its gradient would be lost.
        largest, mean = (size * hard).amax((-2, -1), True), size.mean((-2, -1), True)
        most = 2 * torch.maximum(largest, mean)
        soft = torch.minimum(torch.maximum(values, -most), most) * open_
        return (soft + (passing - soft).detach()).to(values.dtype)

    def cost(self, name: str, width: int) -> Cost:
        """What `choose` costs on values of `width` a candidate, however many tokens there are."""
        rows, n = self.score.shape
        numbers = rows * n
        sorting = (n - 1).bit_length()
        scores = Cost(
            name="scores",
            # a number: threshold 17 and the sort, shares and their derivative 15, the choice 1
            forward=numbers * (33 + sorting) + 14 * rows,
            # to each score: through itself and through the level, which sums over the row
            backward=numbers * 5 + rows,
            useful=numbers * (33 + sorting) + 14 * rows,
            macs=numbers * 14 + 4 * rows,
            weights=numbers,
            activations=2 * numbers,
        )
        # products with the share and with the choice, their difference, the sum; the bound 6; back:
        # both products and, for values wider than one, the sum over their width; the bound
        values = cost.elementwise("values", numbers * width, forward=10, backward=8 + (width > 1))
        bound = cost.elementwise("bound", rows, forward=3, macs=0)
        return Cost.total(name, scores, values, bound)
