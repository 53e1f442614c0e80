"""Work of factorisations and solves: the leading terms of the textbook, rounded down.

Golub and Van Loan, Matrix Computations: Cholesky n^3 / 3, LU 2 n^3 / 3, a triangular solve n^2 for
each right-hand side, QR by Householder 2 n^2 (m - n / 3) with as much again for a reduced Q.
Complex numbers cost four times as much. Eigenvalues and singular values iterate until they converge
and have no formula.
"""

from __future__ import annotations

from math import prod

from torch import Tensor

from undense.cost import Work
from undense.measure.call import Call, Formula


def _all(flops: int, matrices: Tensor) -> Work:
    """`flops` for each of a batch of matrices."""
    flops *= prod(matrices.shape[:-2]) * (4 if matrices.is_complex() else 1)
    return Work(flops, flops // 2)


def _columns(call: Call, name: str = "B") -> int:
    """Right-hand sides of a solve: vectors where there is one dimension less than in the matrix."""
    matrix, sides = call.get("A"), call[name]
    left = call.get("left") in (None, True)
    if matrix is not None and sides.shape == matrix.shape[:-1]:
        return 1
    return sides.shape[-1] if left else sides.shape[-2]


def _lu(n: int) -> int:
    return 2 * n**3 // 3


def cholesky(call: Call) -> Work:
    x = call["self"]
    return _all(x.shape[-1] ** 3 // 3, x)


def cholesky_solve(call: Call) -> Work:
    """Two triangular solves."""
    x, columns = call["input2"], call["self"].shape[-1]
    return _all(2 * x.shape[-1] ** 2 * columns, x)


def triangular(call: Call) -> Work:
    x = call["self"]
    return _all(x.shape[-1] ** 2 * _columns(call), call.result)


def lu(call: Call) -> Work:
    x = call["A"]
    return _all(_lu(x.shape[-1]), x)


def lu_solve(call: Call) -> Work:
    return _all(2 * call["LU"].shape[-1] ** 2 * _columns(call), call["LU"])


def solve(call: Call) -> Work:
    """LU, then two triangular solves for each right-hand side."""
    x = call["A"]
    return _all(_lu(x.shape[-1]) + 2 * x.shape[-1] ** 2 * _columns(call), x)


def inverse(call: Call) -> Work:
    x = call["A"]
    return _all(2 * x.shape[-1] ** 3, x)


def qr(call: Call) -> Work | None:
    x, mode = call["A"], call["mode"]
    if mode == "complete":
        return None
    long, short = max(x.shape[-2:]), min(x.shape[-2:])
    triangle = 2 * short**2 * (3 * long - short) // 3
    return _all(triangle if mode == "r" else 2 * triangle, x)


FORMULAS: dict[str, Formula] = {
    "aten.linalg_cholesky_ex": cholesky,
    "aten.cholesky": cholesky,
    "aten.cholesky_solve": cholesky_solve,
    "aten.linalg_solve_triangular": triangular,
    "aten.linalg_lu_factor_ex": lu,
    "aten.linalg_lu_solve": lu_solve,
    "aten._linalg_solve_ex": solve,
    "aten._linalg_det": lu,
    "aten._linalg_slogdet": lu,
    "aten.linalg_inv_ex": inverse,
    "aten.linalg_qr": qr,
}
