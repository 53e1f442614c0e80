"""What an operation costs: the counting conventions, the primitives, and the `Cost` tree.

Conventions. A FLOP is one multiply, one add, one comparison, or one elementary function (exp, tanh,
erf, sqrt, division) of one number; a multiply-add is 2. Counts are exact integers. Reductions cost
one FLOP for each number read; so does picking the best few, while a sort of n numbers is a merge of
n ceil(log2 n) comparisons. A Fourier transform costs its nominal 5 n ceil(log2 n), half of that for
real numbers; a factorisation the leading terms of the textbook; what iterates until it converges
(eigenvalues, singular values) has no count. Moving data (views, gathers, copies, permutations,
fills) costs none.

`macs` is the other half of the field's convention, shown beside FLOPs and never mixed with them: a
multiply-add is 1, an activation function 1 per number, a normalisation 4 per number.

Forward is one call; backward is what autograd executes for it when the input and every parameter
receive a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from undense.errors import UndenseError
from undense.per_number import per_element


class Work(NamedTuple):
    """FLOPs of one executed operation, and the same in multiply-adds."""

    flops: int
    macs: int = 0

    def __add__(self, other: object) -> Work:  # a sum of work, not the tuples one after the other
        assert isinstance(other, Work), other
        return Work(self.flops + other.flops, self.macs + other.macs)


OpFormula = Callable[..., Work]

# The operations that `register_formula` was told about; the dispatch counter reads it.
OP_FORMULAS: dict[str, OpFormula] = {}


def register_formula(op: str, formula: OpFormula) -> None:
    """Tell the dispatch counter what one call of the PyTorch operation `op` costs.

    `op`: "namespace.name" as in `torch.ops`, for every overload and the in-place form (without its
    last underscore). `formula(out, *args, **kwargs)` receives what the operation returned (on the
    meta device shapes only), then its own arguments. The operation is no longer taken apart. A file
    that defines a custom op calls this right under it, for its backward op too; `Work(0)` says that
    an operation only moves data.

    Raises `UndenseError` where the name has no namespace or has a formula already.
    """
    namespace, _, name = op.partition(".")
    if not (namespace.isidentifier() and name.isidentifier()):
        raise UndenseError(f"register_formula: op={op!r} must be 'namespace.name', as in torch.ops")
    if op in OP_FORMULAS:
        raise UndenseError(f"register_formula: {op} has a formula already; register it once")
    OP_FORMULAS[op] = formula


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one call costs, as a tree whose parts sum to the whole.

    `forward`, `backward`: FLOPs executed. `useful`: forward FLOPs that touch a weight which is not
    zero. `macs`: the forward in multiply-adds. `weights`: parameters and buffers read once.
    `indices`: bytes of the integers that say which numbers those are, or which features are read.
    `activations`: numbers read and written, each operation by itself (an unfused upper bound).
    """

    name: str
    forward: int = 0
    backward: int = 0
    useful: int = 0
    macs: int = 0
    weights: int = 0
    indices: int = 0
    activations: int = 0
    parts: tuple[Cost, ...] = ()

    @classmethod
    def total(cls, name: str, *parts: Cost) -> Cost:
        """A node whose figures are the sums of its parts."""
        return cls(
            name=name,
            forward=sum(part.forward for part in parts),
            backward=sum(part.backward for part in parts),
            useful=sum(part.useful for part in parts),
            macs=sum(part.macs for part in parts),
            weights=sum(part.weights for part in parts),
            indices=sum(part.indices for part in parts),
            activations=sum(part.activations for part in parts),
            parts=parts,
        )

    def named(self, name: str) -> Cost:
        """The same cost under another name."""
        return replace(self, name=name)

    def bytes(self, element_size: int) -> int:
        """Bytes that the forward moves when every number takes `element_size` bytes."""
        return element_size * (self.weights + self.activations) + self.indices

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Cost]]:
        """Every node with its depth, parents first."""
        yield depth, self
        for part in self.parts:
            yield from part.walk(depth + 1)

    def part(self, name: str) -> Cost:
        """The direct part called `name`; KeyError where there is none."""
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(f"{self.name} has no part {name!r}: {[p.name for p in self.parts]}")

    def to_dict(self) -> dict[str, object]:
        """The tree as plain JSON values."""
        figures: dict[str, object] = {
            "name": self.name,
            "forward": self.forward,
            "backward": self.backward,
            "useful": self.useful,
            "macs": self.macs,
            "weights": self.weights,
            "indices": self.indices,
            "activations": self.activations,
        }
        if self.parts:
            figures["parts"] = [part.to_dict() for part in self.parts]
        return figures


def linear(
    name: str, tokens: int, fan_in: int, fan_out: int, *, bias: bool, trainable: bool = True
) -> Cost:
    """`tokens` rows times a dense fan_in x fan_out matrix, plus a bias."""
    return block_linear(name, tokens, 1, fan_in, fan_out, bias=bias, trainable=trainable)


def block_linear(
    name: str,
    tokens: int,
    blocks: int,
    fan_in: int,
    fan_out: int,
    *,
    bias: bool,
    trainable: bool = True,
) -> Cost:
    """`tokens` rows times a block-diagonal matrix of `blocks` equal blocks, plus a bias.

    Backward is one product for the input and, when `trainable`, one for the weight and a reduction
    over the tokens for the bias.
    """
    assert fan_in % blocks == 0 and fan_out % blocks == 0, (blocks, fan_in, fan_out)
    multiplies = tokens * fan_in * fan_out // blocks
    shift = tokens * fan_out if bias else 0
    return Cost(
        name=name,
        forward=2 * multiplies + shift,
        backward=(4 * multiplies + shift) if trainable else 2 * multiplies,
        useful=2 * multiplies + shift,
        macs=multiplies,
        weights=fan_in * fan_out // blocks + (fan_out if bias else 0),
        activations=tokens * (fan_in + fan_out),
    )


def elementwise(
    name: str, numbers: int, *, forward: int = 1, backward: int = 0, macs: int | None = None
) -> Cost:
    """Arithmetic of `forward` and `backward` FLOPs on each of `numbers` numbers."""
    return Cost(
        name=name,
        forward=forward * numbers,
        backward=backward * numbers,
        useful=forward * numbers,
        macs=(forward if macs is None else macs) * numbers,
        activations=2 * numbers,
    )


def activation(name: str, numbers: int, function: str) -> Cost:
    """A pointwise function and its backward, from the shared table."""
    if function == "identity":
        return Cost(name=name)
    if function == "relu2":  # r = relu(x); r * r: two products and their sum on the way back
        return elementwise(name, numbers, forward=2, backward=4, macs=1)
    backward = {"relu": "threshold_backward"}.get(function, f"{function}_backward")
    return elementwise(
        name,
        numbers,
        forward=per_element(function),
        backward=per_element(backward),
        macs=1,
    )


def layer_norm(name: str, tokens: int, dim: int) -> Cost:
    """LayerNorm with weight and bias over the last dimension."""
    per = per_element("layer_norm") + per_element("layer_norm_affine")
    cost = elementwise(
        name, tokens * dim, forward=per, backward=per_element("layer_norm_backward"), macs=4
    )
    return replace(cost, weights=2 * dim)


def gain(name: str, tokens: int, dim: int, *, size: int) -> Cost:
    """Multiply by `size` learned gains, broadcast over tokens (and over features if `size` is 1).

    Backward: the product for the input, the product for the gain, and its reduction.
    """
    cost = elementwise(name, tokens * dim, forward=1, backward=3)
    return replace(cost, weights=size)


def add(name: str, numbers: int) -> Cost:
    """Add two tensors; their gradients need no arithmetic."""
    return elementwise(name, numbers, macs=0)


def product(name: str, numbers: int) -> Cost:
    """Multiply two activations; backward is one product for each of them."""
    return elementwise(name, numbers, forward=1, backward=2)


def fan_out(name: str, numbers: int, uses: int) -> Cost:
    """A tensor that is used `uses` times: free on the way out, summed on the way back."""
    assert uses >= 1
    return Cost(name=name, backward=(uses - 1) * numbers)


def gather(name: str, numbers: int, *, stored: int = 0) -> Cost:
    """`numbers` read by index: free on the way out, added to their places on the way back.
    `stored`: how many 64-bit indices a buffer holds for it."""
    return replace(elementwise(name, numbers, forward=0, backward=1), indices=8 * stored)


def real_fft(name: str, rows: int, length: int) -> Cost:
    """`rows` real transforms of `length`, either direction, nominal: 5 n ceil(log2 n) // 2 each."""
    flops = rows * (5 * length * (length - 1).bit_length() // 2)
    return Cost(
        name=name,
        forward=flops,
        useful=flops,
        macs=flops // 2,
        activations=2 * rows * length,
    )
