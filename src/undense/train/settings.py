"""How long and how fast to train. Nothing heavy is imported: a command's help shows these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from undense.errors import UndenseError

Trained = Literal["all", "ffn", "lora", "stepwise"]


def require_seed(seed: int) -> None:
    """Raises `UndenseError` for a number that the generators do not take."""
    if not 0 <= seed < 2**32:
        raise UndenseError(f"seed={seed} must be at least 0 and below 2**32")


@dataclass(frozen=True, kw_only=True)
class DistillSettings:
    """How long and how fast. `divergence`: a loss this many times its best reverts the site.
    `save_every`: steps between snapshots, in memory and, given a folder, on disk."""

    steps: int = 200
    batch: int = 8
    learning_rate: float = 2e-3
    warmup: float = 0.05
    clip: float = 1.0
    divergence: float = 4.0
    save_every: int = 50
    seed: int = 0
    bf16: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "save_every"):
            if getattr(self, name) < 1:
                raise UndenseError(f"distill: {name}={getattr(self, name)} must be at least 1")
        if not self.learning_rate > 0:
            raise UndenseError(f"distill: learning_rate={self.learning_rate} must be above 0")
        require_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """`train`: every weight ("all"); the replaced FFNs alone ("ffn"), with LoRA adapters of rank
    `lora_rank` in the attention, merged at the end ("lora"), or, after the share `first_stage` of
    the steps, with the host's attention and norms ("stepwise"). `ffn_rate`: step size of the
    replaced FFNs over that of the rest. `teacher_weight`: share of the loss that is the divergence
    from the teacher's logits (0 without a teacher). `divergence`: a loss this many times the best
    one goes back to the last good weights at half the step size. `save_every`: steps between
    checkpoints on disk, from which a later call continues; 0 is none.
    """

    steps: int = 100
    batch: int = 8
    learning_rate: float = 5e-4
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip: float = 1.0
    train: Trained = "all"
    lora_rank: int = 8
    first_stage: float = 0.5
    ffn_rate: float = 1.0
    teacher_weight: float = 0.0
    divergence: float = 2.0
    log_every: int = 10
    save_every: int = 25
    seed: int = 0
    bf16: bool = False

    def __post_init__(self) -> None:
        require_seed(self.seed)
        if not self.learning_rate > 0:
            raise UndenseError(f"finetune: learning_rate={self.learning_rate} must be above 0")
        for name in ("steps", "batch", "log_every"):
            if getattr(self, name) < 1:
                raise UndenseError(f"finetune: {name}={getattr(self, name)} must be at least 1")
        if self.lora_rank < 1:
            raise UndenseError(f"finetune: lora_rank={self.lora_rank} must be at least 1")
        if not 0 < self.first_stage < 1:
            raise UndenseError(
                f"finetune: first_stage={self.first_stage} must be between 0 and 1, both excluded"
            )
        if not self.ffn_rate > 0:
            raise UndenseError(
                f"finetune: ffn_rate={self.ffn_rate} must be above 0; freeze the FFNs by hand to"
                " train the rest alone"
            )
        if not 0 <= self.teacher_weight <= 1:
            raise UndenseError(
                f"finetune: teacher_weight={self.teacher_weight} must be between 0 and 1"
            )
