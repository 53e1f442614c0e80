"""A text of 200 K tokens through a whole model: time, memory, growth, decoding, size of the state.

    python benchmarks/long_context.py [--tokens 200000] [--threads 2]

`SpectralModel` of 4 layers, d=256, 4 heads, all parts of `spectral_layer` on, SwiGLU FFNs, fp32,
random weights, without gradients. Growth is time a token at the full length over time a token at
16 K: the whole text against as many of 16 K in a row, in turns, so that a slow moment of the
machine meets both alike; medians over rounds. Peak memory is what is resident above the model and
its input. Decoding: 64 tokens from the state after 1 K tokens and after the full length, in turns.
Writes `benchmarks/results/long-context-DATE.json`.
"""

from __future__ import annotations

import argparse
import copy
import datetime
from collections.abc import Callable
from pathlib import Path

import torch
from peak_memory import peak_megabytes

import undense
from undense.files import write_json
from undense.measure.timing import environment, interleaved
from undense.mixers import all_parts

ROOT = Path(__file__).resolve().parent.parent
SHORT, EARLY, TOKENS = 16_384, 1024, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = undense.SpectralConfig(
        vocab_size=256,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        mixer=all_parts().to_dict(),
    )
    model = undense.SpectralModel(config).eval()
    text = torch.randint(256, (1, options.tokens))

    def forward(tokens: int) -> Callable[[], object]:
        @torch.no_grad()
        def run() -> object:
            return model(text[:, :tokens], use_cache=True)

        return run

    def decode(tokens: int) -> Callable[[], object]:
        with torch.no_grad():
            past = model(text[:, :tokens], use_cache=True).past_key_values

        @torch.no_grad()
        def run() -> object:
            cache = copy.deepcopy(past)
            for _ in range(TOKENS):
                model(text[:, :1], past_key_values=cache)
            return cache

        return run

    texts = round(options.tokens / SHORT)

    def short() -> object:
        return [forward(SHORT)() for _ in range(texts)][-1]

    forward(SHORT)()
    megabytes = peak_megabytes(forward(options.tokens))
    times = interleaved(
        {"short": short, "long": forward(options.tokens)}, rounds=options.rounds, warmup=0
    )
    early_us, late_us = (
        1e3 * times["short"].median_ms / (texts * SHORT),
        1e3 * times["long"].median_ms / options.tokens,
    )
    steps = interleaved(
        {"early": decode(EARLY), "late": decode(options.tokens)}, rounds=9, warmup=1
    )
    early, late = (steps[name].median_ms / TOKENS for name in ("early", "late"))
    layer = model.layers[0].mixer
    assert isinstance(layer, undense.SpectralLayer)
    result = {
        "created": datetime.date.today().isoformat(),
        "command": "python benchmarks/long_context.py",
        "environment": environment(),
        "tokens": options.tokens,
        "seconds": times["long"].median_ms / 1e3,
        "seconds_iqr": [ms / 1e3 for ms in times["long"].iqr_ms],
        "us_a_token": {"16K": early_us, "full": late_us},
        "growth_over_linear": late_us / early_us,
        "peak_mb_above_weights": megabytes,
        "decode_ms": {"1K": early, "full": late, "ratio": late / early},
        "state_kb_a_layer": layer.state_bytes() / 1024,
    }
    path = ROOT / "benchmarks" / "results" / f"long-context-{result['created']}.json"
    write_json(path, result)
    for name, value in result.items():
        print(f"{name:24} {value}")


if __name__ == "__main__":
    main()
