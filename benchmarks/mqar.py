"""Multi-query associative recall: which mixer can look a value up by its key?

    python benchmarks/mqar.py --arms attention spectral_layer --minutes 10

Key-value pairs, then keys again at random distances: the model must give each key's value. 128
tokens, 16 pairs, vocabulary 2048, width 128, 2 layers (`--task quick`: 64, 8, 512, 64, 2;
`--task small`: 64, 4, 256, 64, 2), logits at the queries only. Training mixes a quarter to all of
the pairs, because many alone do not start to learn, and asks at every place after them; the
evaluation asks each key once, among blanks.

In every arm a short causal convolution (three taps, residual) stands before each mixer, as in the
source of the task. Without it (`--bare`) attention has to find out by itself that a value belongs
to the key one place before it, and in 1500 steps it does not: it stays at the chance of guessing
one of the values that were shown.

Source of the task: Zoology, https://arxiv.org/abs/2312.04927. An arm goes on from its checkpoint
under `runs/mqar`; writes `benchmarks/results/mqar-TASK-DATE.json`, with all runs of that folder.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peers import PEERS, matched, parameters_of
from torch import Tensor, nn
from tqdm import tqdm

import undense.mixers  # noqa: F401  (registers the mixers)
from undense.files import write_json
from undense.measure.timing import environment
from undense.mixing import Config, build, default, mixers

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "mqar"
BATCH = 64
TAPS = 3
EVALUATE_EVERY = 100
SOLVED = 0.995


@dataclass(frozen=True)
class Task:
    """Sizes of the task and of the model that learns it."""

    vocabulary: int = 2048
    length: int = 128
    pairs: int = 16
    dim: int = 128
    layers: int = 2


TASKS = {
    "full": Task(),
    "small": Task(vocabulary=256, length=64, pairs=4, dim=64),
    "quick": Task(vocabulary=512, length=64, pairs=8, dim=64),
}


class ShortConvolution(nn.Module):
    """Each feature's last `TAPS` tokens, weighted."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.taps = nn.Parameter(0.1 * torch.randn(dim, TAPS))

    def forward(self, x: Tensor) -> Tensor:
        columns = nn.functional.pad(x.mT, (TAPS - 1, 0))
        return nn.functional.conv1d(columns, self.taps[:, None], groups=len(self.taps)).mT


class Block(nn.Module):
    """Pre-norm residual block: a short convolution (not `bare`), the mixer under test, an FFN."""

    def __init__(self, mixer: Config, dim: int, *, bare: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.convolution = None if bare else ShortConvolution(dim)
        self.mixer = build(dim, mixer)
        self.ffn = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        if self.convolution is not None:
            x = x + self.convolution(self.norms[2](x))
        x = x + self.mixer(self.norms[0](x))[0]
        return x + self.ffn(self.norms[1](x))


def configs(arm: str, task: Task) -> list[Config]:
    """The mixer of every layer."""
    if arm == "hybrid":
        return [default("spectral_layer")] * (task.layers - 1) + [default("attention")]
    if arm in PEERS:
        size = parameters_of(build(task.dim, default("spectral_layer")))
        return [matched(arm, task.dim, 4, size)] * task.layers
    return [default(arm)] * task.layers


class Model(nn.Module):
    """Tied embeddings around the blocks; logits at the given places only.

    Embeddings start at unit power: at GPT-2's 0.02 the first mixer's output drowns the token.
    """

    def __init__(self, arm: str, task: Task, *, bare: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(task.vocabulary, task.dim)
        self.blocks = nn.Sequential(
            *(Block(mixer, task.dim, bare=bare) for mixer in configs(arm, task))
        )
        self.norm = nn.LayerNorm(task.dim)
        nn.init.constant_(self.norm.weight, task.dim**-0.5)

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.embed(tokens)))
        x = torch.take_along_dim(x, places[..., None], 1)
        return x @ self.embed.weight.T


def draw(
    task: Task, pairs: int, rows: int, generator: torch.Generator, *, everywhere: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (rows, length), places of the queries and the values they ask for (rows, queries):
    one query a pair at random places among blanks, or (`everywhere`) one at each place left."""
    half = task.vocabulary // 2
    keys = torch.rand(rows, half - 1, generator=generator).argsort(1)[:, :pairs] + 1
    values = torch.rand(rows, half, generator=generator).argsort(1)[:, :pairs] + half
    tokens = torch.zeros(rows, task.length, dtype=torch.int64)
    tokens[:, : 2 * pairs : 2], tokens[:, 1 : 2 * pairs : 2] = keys, values
    free = task.length - 2 * pairs
    order = torch.rand(rows, free, generator=generator).argsort(1)
    if everywhere:
        asked, places = order % pairs, torch.arange(free).expand(rows, -1) + 2 * pairs
    else:
        asked, places = torch.arange(pairs).expand(rows, -1), order[:, :pairs] + 2 * pairs
    tokens.scatter_(1, places, keys.gather(1, asked))
    return tokens, places, values.gather(1, asked)


def train(
    arm: str,
    size: str,
    minutes: float,
    rate: float,
    seed: int,
    *,
    bare: bool,
) -> dict[str, object]:
    """Train until the minutes are spent, on from the checkpoint where there is one."""
    RUNS.mkdir(parents=True, exist_ok=True)
    file = RUNS / f"{size}-{arm}-{rate:g}-{seed}{'-bare' * bare}.pt"
    task = TASKS[size]
    torch.manual_seed(seed)
    model = Model(arm, task, bare=bare)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    curve: list[dict[str, float]] = []
    step, spent = 0, 0.0
    if file.exists():
        saved = torch.load(file)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        curve, step, spent = saved["curve"], saved["step"], saved["spent"]
    bar = tqdm(total=round(60 * minutes), initial=round(spent), unit="s", desc=arm)
    while spent < 60 * minutes and not (curve and curve[-1]["accuracy"] > SOLVED):
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(1_000_003 * seed + step)
        pairs = task.pairs // (4, 2, 1)[step % 3]
        tokens, places, values = draw(task, pairs, BATCH, generator, everywhere=True)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 50)
        loss = nn.functional.cross_entropy(
            model.train()(tokens, places).flatten(0, 1), values.flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        taken = time.perf_counter() - start
        spent += taken
        bar.update(min(taken, bar.total - bar.n))
        if step % EVALUATE_EVERY == 0:
            accuracy = evaluate(model, task)
            curve.append(
                {"step": step, "seconds": spent, "loss": loss.item(), "accuracy": accuracy}
            )
            bar.set_postfix(step=step, loss=f"{loss.item():.3f}", accuracy=f"{accuracy:.3f}")
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state | {"curve": curve, "step": step, "spent": spent}, file)
    bar.close()
    found = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "rate": rate,
        "seed": seed,
        "steps": step,
        "seconds": spent,
        "accuracy": evaluate(model, task),
        "curve": curve,
    }
    write_json(file.with_suffix(".json"), found)
    return found


def gathered(size: str) -> dict[str, dict[str, object]]:
    """Every run of the task that was finished, by the name of its file: those of other processes
    and of other calls too."""
    files = sorted(RUNS.glob(f"{size}-*.json"))
    return {file.stem.removeprefix(f"{size}-"): json.loads(file.read_text()) for file in files}


@torch.no_grad()
def evaluate(model: Model, task: Task) -> float:
    """Share of queries of the most pairs answered right, on rows that training never draws."""
    generator = torch.Generator().manual_seed(2**40)
    tokens, places, values = draw(task, task.pairs, 256, generator, everywhere=False)
    return (model.eval()(tokens, places).argmax(-1) == values).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--arms",
        nargs="+",
        default=["attention", "spectral_layer", "hybrid", "mamba2"],
        choices=[*mixers(), "hybrid"],
    )
    parser.add_argument("--minutes", type=float, default=10, help="training time of one arm")
    parser.add_argument("--task", default="full", choices=list(TASKS))
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--bare", action="store_true", help="no convolution before the mixers")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    today = datetime.date.today().isoformat()
    path = ROOT / "benchmarks" / "results" / f"mqar-{options.task}-{today}.json"
    for arm in options.arms:
        found = train(
            arm,
            options.task,
            options.minutes,
            options.rate,
            options.seed,
            bare=options.bare,
        )
        print(f"{arm}: accuracy {found['accuracy']:.3f} after {found['steps']} steps")
        result = {
            "created": today,
            "command": f"python benchmarks/mqar.py --task {options.task}",
            "environment": environment(),
            "task": asdict(TASKS[options.task]),
            "batch": BATCH,
            "arms": gathered(options.task),
        }
        write_json(path, result)


if __name__ == "__main__":
    main()
