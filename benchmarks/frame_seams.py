"""What filtering in frames costs at their seams: plain chunks, overlapping frames, one-sided taps.

    python benchmarks/frame_seams.py

The signal is four sinusoids between 1/50 and 1/5 of the sampling rate and white noise of a tenth
their power, 8192 samples. The filter is a low pass of 17 taps (Hann, centred; one-sided for the
causal kernel). The error of each is relative to the exact convolution, over all samples and over
the four samples on either side of a seam. Writes `benchmarks/results/frame-seams-DATE.json`.
"""

from __future__ import annotations

import datetime
from pathlib import Path

import torch

from undense.files import write_json
from undense.measure.timing import environment
from undense.ops.causal_fir import overlap_save
from undense.ops.overlap_add import OverlapAddFilter

ROOT = Path(__file__).resolve().parent.parent
LENGTH, TAPS, FRAME = 8192, 17, 128


def signal() -> torch.Tensor:
    torch.manual_seed(0)
    time = torch.arange(LENGTH, dtype=torch.float64)
    waves = sum(torch.sin(2 * torch.pi * time / period) for period in (50, 23, 11, 5))
    assert isinstance(waves, torch.Tensor)
    return (waves + 0.45 * torch.randn(LENGTH, dtype=torch.float64))[None, None]


def framed(
    x: torch.Tensor, kernel: torch.Tensor, overlap: float, window: list[float]
) -> torch.Tensor:
    layer = OverlapAddFilter(1, 1, frame=FRAME, overlap=overlap).double()
    centred = torch.zeros(FRAME, dtype=torch.float64)
    centred[: len(kernel)] = kernel
    response = torch.fft.rfft(centred.roll(-(len(kernel) // 2)))
    layer.response.data = torch.view_as_real(response)[None].clone()
    layer.window.logits.data = torch.tensor(window, dtype=torch.float64)
    with torch.no_grad():
        return layer(x)


def main() -> None:
    x = signal()
    kernel = torch.hann_window(TAPS + 2, periodic=False, dtype=torch.float64)[1:-1]
    kernel = kernel / kernel.sum()
    half = TAPS // 2
    exact = torch.conv1d(x, kernel.flip(0).view(1, 1, -1), padding=half)
    joined = torch.nn.functional.pad(x, (TAPS - 1, 0))
    arms = {
        "plain chunks": (FRAME, framed(x, kernel, 0.0, [-30, -30, 0])),
        "12.5 % overlap, rectangular": (112, framed(x, kernel, 0.125, [-30, -30, 0])),
        "12.5 % overlap, mixed window": (112, framed(x, kernel, 0.125, [0, 0, 0])),
        "50 % overlap, rectangular": (64, framed(x, kernel, 0.5, [-30, -30, 0])),
    }
    causal = overlap_save(joined, kernel[None])
    exact_causal = torch.conv1d(joined, kernel.flip(0).view(1, 1, -1))
    rows: dict[str, dict[str, float]] = {}
    for name, (hop, y) in arms.items():
        place = torch.arange(LENGTH) % hop
        near = (place < 4) | (place >= hop - 4)
        error = (y - exact)[0, 0]
        rows[name] = {
            "error": (error.norm() / exact.norm()).item(),
            "error_at_seams": (error[near].norm() / exact[0, 0, near].norm()).item(),
        }
    rows["one-sided taps, overlap-save"] = {
        "error": ((causal - exact_causal).norm() / exact_causal.norm()).item()
    }
    today = datetime.date.today().isoformat()
    result = {
        "created": today,
        "command": "python benchmarks/frame_seams.py",
        "environment": environment(),
        "signal": "sinusoids of periods 50, 23, 11, 5 and noise of standard deviation 0.45",
        "arms": rows,
    }
    write_json(ROOT / "benchmarks" / "results" / f"frame-seams-{today}.json", result)
    for name, row in rows.items():
        print(f"{name:32}", *(f"{key} {value:.2e}" for key, value in row.items()))


if __name__ == "__main__":
    main()
