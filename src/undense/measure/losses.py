"""Work of losses and their gradients. PyTorch composes the others (L1, KL, …)."""

from __future__ import annotations

from undense.cost import Work, per_element
from undense.measure.call import Call, Formula

# FLOPs a number, the sum over all of them included; it is left out where every loss is returned.
_FORWARD: dict[str, int] = {
    "mse_loss": per_element("mse_loss"),
    "smooth_l1_loss": 7,  # z = abs(x - y), compare, 0.5 * z * z / beta; sum
    "huber_loss": 6,  # the same without beta
    "soft_margin_loss": 5,  # log1p(exp(-x * y)); sum
    # (y - 1) * max(log1p(-x), -100) - y * max(log(x), -100); sum
    "binary_cross_entropy": 11,
    # (1 - y) * x - (min(x, 0) - log1p(exp(-abs(x)))); sum
    "binary_cross_entropy_with_logits": 10,
}

# FLOPs a number of the gradient.
_BACKWARD: dict[str, int] = {
    "mse_loss_backward": per_element("mse_loss_backward"),
    "smooth_l1_loss_backward": 6,  # x - y, two comparisons, n * x * g / beta
    "huber_loss_backward": 5,
    "binary_cross_entropy_backward": 6,  # g * (x - y) / max((1 - x) * x, eps)
}

_WEIGHTS = ("weight", "pos_weight")


def forward(name: str) -> Formula:
    """The loss of every number, times its weights where they are given, and their sum."""

    def formula(call: Call) -> Work:
        numbers = call["self"].numel()
        weights = sum(call.get(weight) is not None for weight in _WEIGHTS)
        unreduced = call["reduction"] == 0
        return Work((_FORWARD[name] + weights - unreduced) * numbers, numbers)

    return formula


def backward(name: str) -> Formula:
    def formula(call: Call) -> Work:
        numbers = call.result.numel()
        return Work((_BACKWARD[name] + (call.get("weight") is not None)) * numbers, numbers)

    return formula


def nll_loss(name: str) -> Formula:
    """The loss reads one number a target, however many classes there are."""

    def formula(call: Call) -> Work:
        return Work(per_element(name) * call["target"].numel())

    return formula


FORMULAS: dict[str, Formula] = {
    **{f"aten.{name}": forward(name) for name in _FORWARD},
    **{f"aten.{name}": backward(name) for name in _BACKWARD},
    "aten.nll_loss_forward": nll_loss("nll_loss"),
    "aten.nll_loss2d_forward": nll_loss("nll_loss"),
    "aten.nll_loss_backward": nll_loss("nll_loss_backward"),
    "aten.nll_loss2d_backward": nll_loss("nll_loss_backward"),
}
