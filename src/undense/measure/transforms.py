"""Work of the discrete Fourier transforms, nominal as everywhere in the field.

A real transform of length n is 5 n ceil(log2 n) // 2 FLOPs whatever the algorithm, a complex one
twice that. The scaling by 1/n or 1/sqrt(n) is part of it.
"""

from __future__ import annotations

from undense.cost import Work
from undense.measure.call import Call, Formula


def real_transform(length: int) -> int:
    """FLOPs of one real transform (either direction)."""
    return 5 * length * (length - 1).bit_length() // 2


def complex_transform(length: int) -> int:
    """FLOPs of one complex transform (either direction)."""
    return 2 * real_transform(length)


def _complex_along(numbers: int, lengths: list[int]) -> int:
    return sum(numbers // length * complex_transform(length) for length in lengths)


def real_to_complex(call: Call) -> Work:
    """The last of `dim` is real; along the others, complex transforms of what it left."""
    x, out, dims = call["self"], call.result, call["dim"]
    last = x.shape[dims[-1]]
    left = out.numel()
    if not call["onesided"]:  # the mirrored half is copied, not transformed
        left = left // last * (last // 2 + 1)
    flops = x.numel() // last * real_transform(last)
    flops += _complex_along(left, [x.shape[d] for d in dims[:-1]])
    return Work(flops, flops // 2)


def complex_to_real(call: Call) -> Work:
    """Complex transforms along all but the last of `dim`, a real one along it."""
    x, out, dims = call["self"], call.result, call["dim"]
    length = out.shape[dims[-1]]
    flops = _complex_along(x.numel(), [x.shape[d] for d in dims[:-1]])
    flops += out.numel() // length * real_transform(length)
    return Work(flops, flops // 2)


def complex_to_complex(call: Call) -> Work:
    """One complex transform along each of `dim`."""
    x = call["self"]
    flops = _complex_along(x.numel(), [x.shape[d] for d in call["dim"]])
    return Work(flops, flops // 2)


FORMULAS: dict[str, Formula] = {
    "aten._fft_r2c": real_to_complex,
    "aten._fft_c2r": complex_to_real,
    "aten._fft_c2c": complex_to_complex,
}
