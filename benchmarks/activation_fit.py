"""Which short polynomial stands for GELU or SiLU, and the constants of `ops/rational.py`.

    python benchmarks/activation_fit.py

act(x) = x (1/2 + odd Chebyshev series in u), coefficients that add up to 1/2, for three maps u of
the line into [-1, 1]. Weighted least squares for the coefficients (numpy's `chebvander`), a bounded
search for the scale. Errors: the largest on [-40, 40], root mean square under N(0, 1), N(0, 3^2).
FLOPs: as in `undense.cost`, where GELU and SiLU themselves cost 5. Writes
`benchmarks/results/activation-fit-DATE.json` and prints the table.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.polynomial.chebyshev import chebvander
from scipy.optimize import minimize_scalar
from scipy.special import ndtr

from undense.files import write_json

Curve = Callable[[np.ndarray], np.ndarray]
Map = Callable[[np.ndarray, float], np.ndarray]

TARGETS: dict[str, Curve] = {"gelu": lambda x: x * ndtr(x), "silu": lambda x: x / (1 + np.exp(-x))}
# The map, and FLOPs of u: two products, sum, reciprocal root (2); two comparisons; quotient, tanh.
MAPS: dict[str, tuple[Map, int]] = {
    "x / sqrt(s^2 + x^2)": (lambda x, s: x / np.sqrt(s * s + x * x), 5),
    "clip(x / s)": (lambda x, s: np.clip(x / s, -1, 1), 2),
    "tanh(x / s)": (lambda x, s: np.tanh(x / s), 2),
}
GRID = np.linspace(-12, 12, 4801)
WEIGHT = np.sqrt(np.exp(-GRID * GRID / 18) + 1e-3)


def series(x: np.ndarray, to_unit: Map, scale: float, odd: np.ndarray) -> np.ndarray:
    terms = chebvander(to_unit(x, scale), 2 * len(odd) - 1)[:, 1::2]
    return x * (0.5 + terms @ odd)


def coefficients(target: Curve, to_unit: Map, scale: float, degree: int) -> np.ndarray:
    """a_1, a_3, … a_degree at this scale; a_1 is what the others leave of 1/2."""
    terms = GRID[:, None] * chebvander(to_unit(GRID, scale), degree)[:, 1::2]
    rest = target(GRID) - GRID / 2 - terms[:, 0] / 2
    free = (terms[:, 1:] - terms[:, :1]) * WEIGHT[:, None]
    others = np.linalg.lstsq(free, rest * WEIGHT, rcond=None)[0]
    return np.concatenate([[0.5 - others.sum()], others])


def fit(target: Curve, to_unit: Map, degree: int) -> tuple[float, np.ndarray]:
    """The scale and the coefficients of least weighted squared error."""

    def loss(scale: float) -> float:
        odd = coefficients(target, to_unit, scale, degree)
        return float(np.square((series(GRID, to_unit, scale, odd) - target(GRID)) * WEIGHT).sum())

    start = min(np.arange(0.4, 8, 0.1), key=loss)
    bounds = (start - 0.1, start + 0.1)
    scale = float(minimize_scalar(loss, bounds=bounds, options={"xatol": 1e-9}).x)
    return scale, coefficients(target, to_unit, scale, degree)


def errors(target: Curve, to_unit: Map, scale: float, odd: np.ndarray) -> dict[str, float]:
    far = np.linspace(-40, 40, 80001)
    worst = np.abs(series(far, to_unit, scale, odd) - target(far)).max()
    found = {"max": float(worst)}
    for deviation in (1, 3):
        x = np.linspace(-8, 8, 40001) * deviation
        density = np.exp(-((x / deviation) ** 2) / 2)
        square = (series(x, to_unit, scale, odd) - target(x)) ** 2
        found[f"rms_{deviation}"] = float(np.sqrt((density * square).sum() / density.sum()))
    return found


def main() -> None:
    rows = []
    print("| of | u | degree | FLOPs | max | rms N(0, 1) | rms N(0, 3^2) | s; a_1, a_3, … |")
    print("|---|---|---|---|---|---|---|---|")
    for name, target in TARGETS.items():
        for form, (to_unit, flops) in MAPS.items():
            for degree in (3, 5, 7):
                scale, odd = fit(target, to_unit, degree)
                # u^2, a product and a sum a coefficient but the first, times u, plus 1/2, times x
                row = {"of": name, "u": form, "degree": degree, "flops": flops + degree + 3}
                row |= errors(target, to_unit, scale, odd)
                row |= {"scale": scale, "odd": odd.tolist()}
                rows.append(row)
                print(
                    f"| {name} | {form} | {degree} | {row['flops']} | {row['max']:.1e} |"
                    f" {row['rms_1']:.1e} | {row['rms_3']:.1e} |"
                    f" {scale:.6f}; {', '.join(f'{a:.8f}' for a in odd)} |"
                )
    today = datetime.date.today().isoformat()
    folder = Path(__file__).resolve().parent / "results"
    write_json(folder / f"activation-fit-{today}.json", {"rows": rows})


if __name__ == "__main__":
    main()
