"""Work of matrix products and convolutions. A multiply-add is 2 FLOPs, of complex numbers 8."""

from __future__ import annotations

from math import prod

from torch import Tensor

from undense.cost import Work, per_element
from undense.measure.call import Call, Formula, is_sparse, stored


def multiply_adds(count: int, operand: Tensor) -> Work:
    """`count` multiply-adds of numbers of the operand's kind (complex: 6 + 2 FLOPs)."""
    macs = 4 * count if operand.is_complex() else count
    return Work(2 * macs, macs)


def multiplications(count: int, operand: Tensor) -> Work:
    """`count` products of numbers of the operand's kind (complex: 6 FLOPs)."""
    return Work(6 * count, 4 * count) if operand.is_complex() else Work(count, count)


def additions(count: int, operand: Tensor) -> Work:
    """`count` additions of numbers of the operand's kind."""
    return Work(2 * count if operand.is_complex() else count)


def _matrix(left: Tensor, right: Tensor) -> Work | None:
    """(…, m, k) times (…, k, n) or (k,): every stored number of one side meets n (or m) others."""
    if is_sparse(left) and is_sparse(right):
        return None
    if is_sparse(right):
        return multiply_adds(left.shape[-2] * stored(right), left)
    columns = right.shape[-1] if right.dim() > 1 else 1
    return multiply_adds(stored(left) * columns, left)


def _blended(product: Work | None, call: Call, numbers: int) -> Work | None:
    """beta * self + alpha * product: the sum is counted, a factor only where it is not 1."""
    if product is None:
        return None
    beta, alpha = call.get("beta"), call.get("alpha")
    passes = (beta != 0) + (beta not in (None, 0, 1)) + (alpha not in (None, 1))
    return product + additions(passes * numbers, call.result)


def mm(call: Call) -> Work | None:
    return _matrix(call["self"], call["mat2"])


def addmm(call: Call) -> Work | None:
    return _blended(_matrix(call["mat1"], call["mat2"]), call, call.result.numel())


def mv(call: Call) -> Work | None:
    return _matrix(call["self"], call["vec"])


def addmv(call: Call) -> Work | None:
    return _blended(_matrix(call["mat"], call["vec"]), call, call.result.numel())


def batched_add(call: Call) -> Work | None:
    return _blended(_matrix(call["batch1"], call["batch2"]), call, call.result.numel())


def dot(call: Call) -> Work:
    return multiply_adds(call["self"].numel(), call["self"])


def addr(call: Call) -> Work | None:
    outer = multiplications(call.result.numel(), call.result)
    return _blended(outer, call, call.result.numel())


def scaled_mm(call: Call) -> Work:
    """Products of 8-bit numbers; the scaling and the bias are one FLOP a number each."""
    passes = 1 + (call.get("bias") is not None)
    left, columns = call["self"], call["mat2"].shape[1]
    return multiply_adds(left.numel() * columns, left) + Work(passes * call.result.numel())


def grouped_mm(call: Call) -> Work:
    """A matrix for each group of rows (or of columns, where only the left side is batched)."""
    left, right = call["self"], call["mat2"]
    if left.dim() == 3 and right.dim() == 2:
        return multiply_adds(right.numel() * left.shape[1], left)
    return multiply_adds(left.numel() * right.shape[-1], left)


def sampled(call: Call) -> Work | None:
    """The product at the places alone where the sparse `self` has numbers."""
    places = stored(call["self"])
    return _blended(multiply_adds(places * call["mat1"].shape[-1], call.result), call, places)


def quantised(call: Call) -> Work:
    """A product with weights packed as integers, and the scale of every result."""
    x, numbers = call["self"], call.result.numel()
    return multiply_adds(numbers * x.shape[-1], x) + Work(numbers, numbers)


def activated(call: Call) -> Work | None:
    """addmm with GELU by tanh, or ReLU, on what it gives."""
    function = per_element("gelu_tanh" if call["use_gelu"] else "relu")
    product, numbers = addmm(call), call.result.numel()
    return None if product is None else product + Work(function * numbers, numbers)


def trilinear(call: Call) -> Work | None:
    """Two products and a sum for each place of the three operands' common shape."""
    shapes = []
    for operand, places in (("i1", "expand1"), ("i2", "expand2"), ("i3", "expand3")):
        shape = [*call[operand].shape]
        for place in call[places]:
            shape.insert(place, 1)
        shapes.append(shape)
    common = prod(max(sizes) for sizes in zip(*shapes, strict=True))
    return Work(3 * common, 2 * common)


def _taps(call: Call, output: Tensor) -> int:
    """Multiply-adds of one pass: every output (transposed: every input) meets one filter.

    Positions that fall on the padding are counted, as the kernels compute them.
    """
    weight = call["weight"]
    reached = call["input"].numel() if call["transposed"] else output.numel()
    return reached * prod(weight.shape[1:])


def convolution(call: Call) -> Work:
    """Weight (out, in / groups, …), transposed (in, out / groups, …): groups are in its shape."""
    work = multiply_adds(_taps(call, call.result), call["input"])
    if call["bias"] is None:
        return work
    return work + additions(call.result.numel(), call.result)


def convolution_backward(call: Call) -> Work:
    """One pass for the input, one for the weight, a sum for the bias: those that are asked for."""
    grad = call["grad_output"]
    for_input, for_weight, for_bias = call["output_mask"]
    work = multiply_adds((for_input + for_weight) * _taps(call, grad), grad)
    return work + additions(grad.numel(), grad) if for_bias else work


FORMULAS: dict[str, Formula] = {
    "aten.mm": mm,
    "aten._sparse_addmm": addmm,
    "aten._int_mm": mm,
    "aten.bmm": mm,
    "aten.addmm": addmm,
    "aten.baddbmm": batched_add,
    "aten.addbmm": batched_add,
    "aten.mv": mv,
    "aten.addmv": addmv,
    "aten.dot": dot,
    "aten.vdot": dot,
    "aten.addr": addr,
    "aten._scaled_mm": scaled_mm,
    "aten._grouped_mm": grouped_mm,
    "aten.sparse_sampled_addmm": sampled,
    "aten._weight_int8pack_mm": quantised,
    "aten._addmm_activation": activated,
    "aten._trilinear": trilinear,
    "aten.convolution": convolution,
    "aten.convolution_overrideable": convolution,
    "aten.convolution_backward": convolution_backward,
    "aten.convolution_backward_overrideable": convolution_backward,
}
