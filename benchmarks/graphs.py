"""Many small runs of a study on one GPU at once: a training step is one CUDA graph, and every arm
has a stream of its own, so that kernels too small to fill the card run beside one another. On a
CPU the same steps are taken one after the other, compiled, so that an arm can join runs of a GPU
later and a small study needs none.

What a run learns from is what `undense train` gives it: the same model, start, optimizer groups,
schedule, clipping and held-out blocks. Three things differ: blocks come in an order that is drawn
from the seed here, the same for every arm; on a GPU matrix products of fp32 are TF32 ("high"); and
a run whose loss rises on the way is not ended for it, its last loss counts.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerBase,
    get_cosine_schedule_with_warmup,
    set_seed,
)

from undense.errors import UndenseError
from undense.files import write_json
from undense.pipeline.pretraining import build_from
from undense.pipeline.study_runs import Run
from undense.train.corpus import Corpus, load_corpus
from undense.train.groups import parameter_groups
from undense.train.heldout import heldout_bytes, heldout_loss
from undense.train.pretrain import tokenizer_of
from undense.train.recipe import PretrainRecipe
from undense.train.scales import scale_
from undense.train.tokens import BlockDataset, encode

WARM_UP = 3  # eager steps before a capture: kernels are compiled, plans of libraries are made
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
TURN = 10  # steps of an arm before it is the next one's turn; all only wait in queues


@dataclass(frozen=True)
class Texts:
    """What runs of one tokenizer and context read, on the device, and how it is held out."""

    corpus: Corpus
    tokenizer: PreTrainedTokenizerBase
    blocks: Tensor  # (blocks, context)
    heldout: BlockDataset


@lru_cache(maxsize=4)
def texts(
    folder: str | None, tokenizer: str, vocab_size: int, context: int, limit: int | None
) -> Texts:
    corpus = load_corpus(folder)
    recipe = PretrainRecipe.from_dict(
        {"tokenizer": tokenizer, "vocab_size": vocab_size, "context": context}
    )
    words = tokenizer_of(recipe, corpus)
    train = BlockDataset(encode(corpus, "train", words), context)
    heldout = BlockDataset(encode(corpus, "heldout", words), context, limit=limit)
    return Texts(corpus, words, train.blocks.long().to(DEVICE), heldout)


class Learner:
    """One arm: its model, and its step captured once for all of its runs."""

    def __init__(self, recipe: PretrainRecipe, folder: str | None, most_steps: int) -> None:
        own = {"guide": 0.0, "data": None, "stored": "fp32", "save_ffns_every": None}
        if asked := [name for name, without in own.items() if getattr(recipe, name) != without]:
            raise UndenseError(f"recipe: {', '.join(asked)} is not for this; use bench pareto")
        self.texts = texts(
            folder, recipe.tokenizer, recipe.vocab_size, recipe.context, recipe.eval_limit
        )
        self.recipe = recipe
        self.stream = torch.cuda.Stream() if GPU else None
        self.model = self._fresh(recipe).to(DEVICE).train()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        groups = self._groups(recipe)
        self.optimizer = torch.optim.AdamW(
            [{**group, "lr": torch.zeros((), device=DEVICE)} for group in groups],
            betas=(recipe.beta1, recipe.beta2),
            eps=1e-8,
            fused=True,
            capturable=GPU,
        )
        self.tops = torch.zeros(len(groups), device=DEVICE)
        self.now = torch.zeros(1, dtype=torch.int64, device=DEVICE)
        self.factors = torch.zeros(most_steps, device=DEVICE)
        self.order = torch.zeros(most_steps, recipe.batch, dtype=torch.int64, device=DEVICE)
        # once for every run of the arm; evaluation stays as it is
        self.forward = self.model if GPU else torch.compile(self.model, fullgraph=True)
        self.graph = self._captured() if GPU else None
        self.run: Run | None = None
        self.left, self.begun = 0, 0.0

    def _captured(self) -> torch.cuda.CUDAGraph:
        assert self.stream is not None
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UP):
                self._step()
        torch.cuda.synchronize()
        self.optimizer.zero_grad(set_to_none=True)  # each replay writes gradients anew
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self._step()
        return graph

    @property
    def arm(self) -> str | None:
        """Whose run it is at."""
        return None if self.run is None else self.run.arm

    def _fresh(self, recipe: PretrainRecipe) -> nn.Module:
        set_seed(recipe.seed)
        model = build_from(recipe, self.texts.tokenizer)
        scale_(model, factor_scales=recipe.factor_scales, scales=recipe.scales)
        return model

    def _groups(self, recipe: PretrainRecipe) -> list[dict[str, Any]]:
        return parameter_groups(
            self.model,
            rate=recipe.learning_rate,
            decay=recipe.weight_decay,
            factor_rates=recipe.factor_rates,
            rates=recipe.rates,
        )

    def _step(self) -> None:
        rows = self.texts.blocks.index_select(0, self.order.index_select(0, self.now)[0])
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(
            DEVICE, torch.bfloat16, enabled=self.recipe.dtype == "bf16", cache_enabled=False
        ):
            loss = self.forward(input_ids=rows, labels=rows, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip, foreach=True)
        factor = self.factors.index_select(0, self.now)[0]
        for group, top in zip(self.optimizer.param_groups, self.tops, strict=True):
            group["lr"].copy_(factor * top)
        self.optimizer.step()
        self.now.add_(1)

    def start(self, run: Run) -> None:
        """From the start that `undense train` draws from the run's seed."""
        recipe = run.recipe
        fresh = self._fresh(recipe)
        steps, warmup = recipe.steps, round(recipe.warmup * recipe.steps)
        generator = torch.Generator().manual_seed(recipe.seed)
        count, wanted = len(self.texts.blocks), steps * recipe.batch
        passes = [torch.randperm(count, generator=generator) for _ in range(-(-wanted // count))]
        order = torch.cat(passes)[:wanted].view(steps, recipe.batch)
        factors = schedule(steps, warmup)
        with torch.cuda.stream(self.stream), torch.no_grad():
            self.model.load_state_dict(fresh.state_dict())
            for state in self.optimizer.state.values():  # none before the first step of a CPU
                for tensor in state.values():
                    tensor.zero_()
            self.now.zero_()
            self.order[:steps].copy_(order)
            self.factors[:steps].copy_(factors)
            tops = [group["lr"] for group in self._groups(recipe)]
            self.tops.copy_(torch.tensor(tops))
        self.run, self.left, self.begun = run, steps, time.perf_counter()

    def go(self) -> bool:
        """Queue some more steps; whether that was the last of the run."""
        with torch.cuda.stream(self.stream):
            for _ in range(min(TURN, self.left)):
                self._step() if self.graph is None else self.graph.replay()
        self.left -= min(TURN, self.left)
        return self.left == 0

    def finish(self) -> None:
        """Wait for the run, evaluate it, and write its folder as `undense bench pareto` does."""
        run = self.run
        assert run is not None
        recipe = run.recipe
        with torch.cuda.stream(self.stream):
            loss = heldout_loss(self.model, self.texts.heldout, batch=64)  # type: ignore[arg-type]
        predictions = len(self.texts.heldout) * (recipe.context - 1)
        size = heldout_bytes(self.texts.tokenizer, self.texts.heldout)
        finite = math.isfinite(loss)
        corpus = self.texts.corpus
        run.folder.mkdir(parents=True, exist_ok=True)
        write_json(run.folder / "run.json", {"recipe": recipe.to_dict(), "corpus": corpus.sha256})
        write_json(
            run.folder / "metrics.json",
            {
                "loss": loss if finite else None,
                "bits_per_byte": loss * predictions / size / math.log(2) if finite else None,
                "parameters": sum(p.numel() for p in self.model.parameters()),
                "steps": recipe.steps,
                "tokens_seen": recipe.steps * recipe.batch * recipe.context,
                "training_seconds": time.perf_counter() - self.begun,
                "corpus": {
                    "name": corpus.name,
                    "sha256": corpus.sha256,
                    "python_version": corpus.python_version,
                },
                "trained_on": trained_on(),
            },
        )
        self.run = None


def schedule(steps: int, warmup: int) -> Tensor:
    """What the Trainer multiplies every rate by, step by step."""
    dummy = torch.optim.SGD([torch.zeros(1)])
    (factor,) = get_cosine_schedule_with_warmup(dummy, warmup, steps).lr_lambdas
    return torch.tensor([factor(step) for step in range(steps)])


def trained_on() -> dict[str, str]:
    return {
        "device": torch.cuda.get_device_name() if GPU else "cpu",
        "torch": torch.__version__,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


class GraphTrainer:
    """Trains runs, `at_once` arms beside one another; learners are kept for later calls."""

    def __init__(self, folder: str | None, *, at_once: int, most_steps: int) -> None:
        if GPU:
            torch.set_float32_matmul_precision("high")
        self.folder = folder
        self.at_once = at_once
        self.most_steps = most_steps
        self.learners: dict[str, Learner] = {}  # by the arm's folder

    def learn(self, runs: Sequence[Run]) -> dict[str, str]:
        """Capture the step of each run's arm; of those where that fails, the reason."""
        failed: dict[str, str] = {}
        for run in runs:
            try:
                self._learner(run)
            except Exception as error:  # whatever it is, the other arms need not wait for it
                failed[run.arm] = f"{type(error).__name__}: {error}"
        return failed

    def __call__(self, runs: Sequence[Run]) -> None:
        waiting: dict[str, deque[Run]] = {}
        for run in runs:
            waiting.setdefault(run.arm, deque()).append(run)
        active: list[Learner] = []
        while waiting or active:
            busy = {learner.arm for learner in active}
            while len(active) < self.at_once and (free := set(waiting) - busy):
                # the arm with most runs left first, so that none is alone at the end
                arm = max(free, key=lambda arm: len(waiting[arm]))
                run = waiting[arm].popleft()
                if not waiting[arm]:
                    del waiting[arm]
                learner = self._learner(run)
                learner.start(run)
                active.append(learner)
                busy.add(arm)
            for learner in [learner for learner in active if learner.go()]:
                learner.finish()
                active.remove(learner)

    def _learner(self, run: Run) -> Learner:
        arm = str(run.folder.parent)
        if arm not in self.learners:
            self.learners[arm] = Learner(run.recipe, self.folder, self.most_steps)
        return self.learners[arm]
