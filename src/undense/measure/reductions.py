"""Work of reductions, selections, softmax and of sums into indexed places.

A reduction costs one FLOP (one complex sum: two) for each number read, whatever it returns; the
division of a mean is one a result and left out. In multiply-adds all of this is 0 but softmax.
"""

from __future__ import annotations

from undense.cost import Work, per_element
from undense.measure.call import Call, Formula
from undense.measure.products import additions, multiplications

# One FLOP for each number read: sums, and comparisons for an extreme or the best few.
_SUMS = "sum nansum mean cumsum"
_COMPARISONS = """
amax amin max min argmax argmin cummax cummin topk any all count_nonzero histc bincount
median nanmedian kthvalue mode
"""

_COSTLIER: dict[str, int] = {
    "aminmax": 2,
    "logcumsumexp": 7,  # log(exp(x) + exp(what came before)): see logaddexp
    "_logcumsumexp": 7,
    "dist": 3,  # subtract, power, sum
    "logsumexp": per_element("logsumexp"),
    "var": per_element("variance"),
    "std": per_element("variance"),
    "var_mean": per_element("variance"),
    "std_mean": per_element("variance"),
    "norm": per_element("vector_norm"),
}


def _read(call: Call) -> int:
    return call["self"].numel()


def sums(call: Call) -> Work:
    return additions(_read(call), call["self"])


def products(call: Call) -> Work:
    """prod, cumprod: one product for each number read."""
    return multiplications(_read(call), call["self"])


def vector_norm(call: Call) -> Work:
    """Square and sum; of a complex number both halves."""
    return Work(per_element("vector_norm") * _read(call) * (2 if call["self"].is_complex() else 1))


def trace(call: Call) -> Work:
    """The sum of the diagonal."""
    return additions(min(call["self"].shape), call["self"])


def distances(call: Call) -> Work | None:
    """Subtract, power and sum for each width of each pair of rows; absolute value or square."""
    if call["p"] not in (1.0, 2.0, float("inf")):
        return None
    return Work(3 * call.result.numel() * call["x1"].shape[-1])


def search(call: Call) -> Work:
    """Halving: ceil(log2(n + 1)) comparisons for each number sought among n."""
    ordered = call.get("sorted_sequence")
    ordered = call["boundaries"] if ordered is None else ordered
    return Work(call.result.numel() * ordered.shape[-1].bit_length())


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
    "aten.prod": products,
    "aten.cumprod": products,
    "aten.linalg_vector_norm": vector_norm,
    "aten.trace": trace,
    "aten._cdist_forward": distances,
    "aten.searchsorted": search,
    "aten.bucketize": search,
    "aten.sort": sort,
    "aten._softmax": softmax("softmax"),
    "aten._safe_softmax": softmax("softmax"),
    "aten._softmax_backward_data": softmax("softmax_backward"),
    "aten._log_softmax": softmax("log_softmax"),
    "aten._log_softmax_backward_data": softmax("log_softmax_backward"),
    "aten.embedding_dense_backward": added("grad_output"),
    "aten._embedding_bag": embedding_bag,
    "aten._embedding_bag_forward_only": embedding_bag,
    "aten._embedding_bag_backward": embedding_bag_backward,
    "aten._embedding_bag_per_sample_weights_backward": embedding_bag_weights_backward,
    "aten.index_put": index_put,
    "aten._index_put_impl": index_put,
    "aten._unsafe_index_put": index_put,
    "aten.index_add": index_add,
    "aten.scatter_add": added("src"),
    "aten.scatter_reduce": added("src"),
    "aten.index_reduce": added("source"),
    "aten.unfold_backward": added("grad_in"),
    "aten.col2im": added("self"),
    **{
        f"aten.{kind}_pad{dim}d_backward": added("grad_output")
        for kind in ("reflection", "replication")
        for dim in (1, 2, 3)
    },
}
