"""Work of reductions, selections, softmax, losses and of sums into indexed places.

A reduction costs one FLOP (one complex sum: two) for each number read, whatever it returns; the
division of a mean is one a result and left out. In multiply-adds all of this is 0 but softmax.
"""

from __future__ import annotations

from undense.cost import per_element
from undense.measure.call import Call, Formula, Work
from undense.measure.products import additions

# One FLOP for each number read: sums, and comparisons for an extreme or the best few.
_SUMS = "sum nansum mean cumsum"
_COMPARISONS = """
amax amin max min argmax argmin cummax cummin topk any all count_nonzero histc bincount
_cummax_helper _cummin_helper
"""

_COSTLIER: dict[str, int] = {
    "prod": 1,
    "cumprod": 1,
    "aminmax": 2,
    "logsumexp": per_element("logsumexp"),
    "var": per_element("variance"),
    "std": per_element("variance"),
    "var_mean": per_element("variance"),
    "std_mean": per_element("variance"),
    "linalg_vector_norm": per_element("vector_norm"),
    "norm": per_element("vector_norm"),
}


def _read(call: Call) -> int:
    return call["self"].numel()


def sums(call: Call) -> Work:
    return additions(_read(call), call["self"])


def real_only(flops: int) -> Formula:
    """`flops` for each number read; complex numbers have no formula here."""

    def formula(call: Call) -> Work | None:
        return None if call["self"].is_complex() else Work(flops * _read(call))

    return formula


def sort(call: Call) -> Work:
    """A merge: n comparisons on each of ceil(log2 n) levels."""
    x = call["self"]
    length = x.shape[call["dim"]] if x.dim() else 1
    return Work(x.numel() * (length - 1).bit_length())


def softmax(name: str) -> Formula:
    """FLOPs of the table for each number; one multiply-add."""

    def formula(call: Call) -> Work:
        numbers = call.result.numel()
        return Work(per_element(name) * numbers, numbers)

    return formula


def mse_loss(call: Call) -> Work:
    """subtract, square; and sum unless every loss is returned."""
    each = per_element("mse_loss") - (call["reduction"] == 0)
    return Work(each * _read(call), _read(call))


def nll_loss(name: str) -> Formula:
    """The loss reads one number a target, however many classes there are."""

    def formula(call: Call) -> Work:
        return Work(per_element(name) * call["target"].numel())

    return formula


def added(argument: str) -> Formula:
    """One sum for each number of the named argument that is added to its place."""

    def formula(call: Call) -> Work:
        return additions(call[argument].numel(), call[argument])

    return formula


def index_put(call: Call) -> Work:
    """Numbers that are written cost nothing, numbers that are added one FLOP each."""
    if not call["accumulate"]:
        return Work(0)
    return additions(call["values"].numel(), call["values"])


def index_add(call: Call) -> Work:
    """The sums, and the products with `alpha` where it is not 1."""
    source = call["source"]
    return additions((1 + (call["alpha"] != 1)) * source.numel(), source)


def embedding_bag(call: Call) -> Work:
    """Every row that is looked up is added to its bag, times its weight where it has one."""
    rows = call["indices"].numel() * call["weight"].shape[1]
    weighted = call.get("per_sample_weights") is not None
    return Work((1 + weighted) * rows, weighted * rows)


def embedding_bag_backward(call: Call) -> Work:
    """The bag's gradient, times the weight where there is one, is added to every row of it."""
    rows = call["indices"].numel() * call["grad"].shape[1]
    weighted = call["per_sample_weights"] is not None
    return Work((1 + weighted) * rows, weighted * rows)


def embedding_bag_weights_backward(call: Call) -> Work:
    """A dot product of each row that was looked up with its bag's gradient."""
    multiplies = call["indices"].numel() * call["grad"].shape[1]
    return Work(2 * multiplies, multiplies)


FORMULAS: dict[str, Formula] = {
    **{f"aten.{name}": sums for name in _SUMS.split()},
    **{f"aten.{name}": real_only(1) for name in _COMPARISONS.split()},
    **{f"aten.{name}": real_only(flops) for name, flops in _COSTLIER.items()},
    "aten.sort": sort,
    "aten._softmax": softmax("softmax"),
    "aten._safe_softmax": softmax("softmax"),
    "aten._softmax_backward_data": softmax("softmax_backward"),
    "aten._log_softmax": softmax("log_softmax"),
    "aten._log_softmax_backward_data": softmax("log_softmax_backward"),
    "aten.mse_loss": mse_loss,
    "aten.nll_loss_forward": nll_loss("nll_loss"),
    "aten.nll_loss2d_forward": nll_loss("nll_loss"),
    "aten.nll_loss_backward": nll_loss("nll_loss_backward"),
    "aten.nll_loss2d_backward": nll_loss("nll_loss_backward"),
    "aten.embedding_dense_backward": added("grad_output"),
    "aten._embedding_bag": embedding_bag,
    "aten._embedding_bag_forward_only": embedding_bag,
    "aten.embedding_bag": embedding_bag,
    "aten._embedding_bag_backward": embedding_bag_backward,
    "aten._embedding_bag_dense_backward": embedding_bag_backward,
    "aten._embedding_bag_per_sample_weights_backward": embedding_bag_weights_backward,
    "aten.index_put": index_put,
    "aten._index_put_impl": index_put,
    "aten._unsafe_index_put": index_put,
    "aten.index_add": index_add,
    "aten.scatter_add": added("src"),
    "aten.scatter_reduce": added("src"),
}
