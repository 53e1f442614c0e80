"""Fine-tuning a converted (or dense) model by Hugging Face's Trainer, with or without a teacher."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
import torch.nn.functional as F
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from undense.errors import UndenseError
from undense.train.portions import Portion, Stages, portion
from undense.train.settings import FinetuneSettings
from undense.train.tokens import BlockDataset


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """`curve`: (step, training loss). `events`: what was reverted, in words."""

    curve: list[tuple[int, float]]
    events: list[str]


def finetune(
    model: PreTrainedModel,
    dataset: BlockDataset,
    settings: FinetuneSettings,
    folder: Path,
    *,
    teacher: PreTrainedModel | None = None,
) -> FinetuneResult:
    """Train `model` in place on next-token prediction, in `folder` for logs and checkpoints.

    loss = (1 - w) cross-entropy + w KL(teacher || model), w = `teacher_weight`.
    Raises `UndenseError` where a teacher is asked for and none given, or where "ffn" or
    "stepwise" is asked for and the model has no replaced FFN with parameters.
    """
    if (settings.teacher_weight > 0) != (teacher is not None):
        raise UndenseError(
            f"finetune: teacher_weight={settings.teacher_weight} needs a teacher model exactly"
            " when it is above 0"
        )
    with portion(model, settings) as chosen:
        trainer, events = _trained(model, dataset, settings, folder, chosen, teacher)
    model.eval()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    curve = [(int(entry["step"]), float(entry["loss"])) for entry in logs]
    return FinetuneResult(curve=curve, events=events)


def _trained(
    model: PreTrainedModel,
    dataset: BlockDataset,
    settings: FinetuneSettings,
    folder: Path,
    chosen: Portion,
    teacher: PreTrainedModel | None,
) -> tuple[Trainer, list[str]]:
    """The Trainer when it is done, and what was reverted. It continues from its last checkpoint."""
    # Without a loss type the Trainer divides by one prediction too many in every block.
    loss_type, model.loss_type = (model.loss_type, "ForCausalLM")
    guard = _LastGood(model, settings.divergence)
    trainer = _FinetuneTrainer(
        model=model,
        args=_arguments(settings, folder),
        train_dataset=dataset,
        callbacks=[guard, Stages(chosen)],
        chosen=chosen,
        ffn_rate=settings.ffn_rate,
        teacher=teacher,
        teacher_weight=settings.teacher_weight,
    )
    guard.trainer = trainer
    last = get_last_checkpoint(str(folder)) if folder.is_dir() and settings.save_every else None
    use_cache = getattr(model.config, "use_cache", None)
    try:
        if last is not None and _step_of(last) >= settings.steps:
            # The Trainer would take one more step before it notices that none is left.
            load_model(model, Path(last) / "model.safetensors")
            trainer.state = TrainerState.load_from_json(str(Path(last) / "trainer_state.json"))
        else:
            trainer.train(resume_from_checkpoint=last)
    finally:
        model.loss_type = loss_type
        if use_cache is not None:
            model.config.use_cache = use_cache
        # Under bf16 the Trainer leaves its autocast on `model.forward`; evaluation is in fp32.
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    return trainer, guard.events


def _step_of(checkpoint: str) -> int:
    return int(checkpoint.rpartition("-")[2])


@final
class _FinetuneTrainer(Trainer):
    """The Trainer, with decay on matrices only, a step size of their own for the replaced FFNs, and
    an optional teacher in the loss."""

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        args: TrainingArguments,
        train_dataset: BlockDataset,
        callbacks: list[TrainerCallback],
        chosen: Portion,
        ffn_rate: float,
        teacher: PreTrainedModel | None,
        teacher_weight: float,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=train_dataset, callbacks=callbacks)
        self.chosen = chosen
        self.ffn_rate = ffn_rate
        self.teacher = None if teacher is None else teacher.eval()
        self.teacher_weight = teacher_weight

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Over all that ever moves: what a later stage unfreezes has its place from the start."""
        if self.optimizer is None:
            cls, options = self.get_optimizer_cls_and_kwargs(self.args)
            groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
            for parameter in self.chosen.moving:
                kind = (parameter in self.chosen.ours, parameter.ndim >= 2)
                groups.setdefault(kind, []).append(parameter)
            self.optimizer = cls(
                [
                    {
                        "params": parameters,
                        "lr": self.args.learning_rate * (self.ffn_rate if ours else 1.0),
                        "weight_decay": self.args.weight_decay if matrix else 0.0,
                    }
                    for (ours, matrix), parameters in groups.items()
                ],
                **options,
            )
        return self.optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        if self.teacher is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = model(input_ids=inputs["input_ids"], labels=inputs["labels"])
        with torch.no_grad():
            wanted = self.teacher(input_ids=inputs["input_ids"]).logits
        divergence = F.kl_div(
            F.log_softmax(outputs.logits[:, :-1].float(), -1).flatten(0, 1),
            F.log_softmax(wanted[:, :-1].float(), -1).flatten(0, 1),
            log_target=True,
            reduction="batchmean",
        )
        loss = (1 - self.teacher_weight) * outputs.loss + self.teacher_weight * divergence
        return (loss, outputs) if return_outputs else loss


@final
class _LastGood(TrainerCallback):
    """Goes back to the last good weights when the loss diverges, at half the step size."""

    def __init__(self, model: nn.Module, divergence: float) -> None:
        self.model = model
        self.divergence = divergence
        self.trainer: Trainer | None = None
        self.events: list[str] = []
        self.best = math.inf
        # A loss judges the weights before its step, so a snapshot is good only once the next loss
        # has been; until then it is pending.
        self.good = self.pending = deepcopy(model.state_dict())
        self.good_step = self.pending_step = 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if math.isfinite(loss) and loss <= self.divergence * self.best:
            self.best = min(self.best, loss)
            self.good, self.good_step = (self.pending, self.pending_step)
            self.pending = deepcopy(self.model.state_dict())
            self.pending_step = state.global_step
            return
        self._revert(f"at step {state.global_step} (loss {loss:.3g}, best {self.best:.3g})")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # No later loss judges the last steps; weights that are not finite are known without one.
        if not all(torch.isfinite(p).all() for p in self.model.parameters()):
            self._revert(f"in the last steps before {state.global_step} (weights not finite)")

    def _revert(self, where: str) -> None:
        self.model.load_state_dict(self.good)
        self.pending, self.pending_step = (self.good, self.good_step)
        assert self.trainer is not None
        optimizer, scheduler = (self.trainer.optimizer, self.trainer.lr_scheduler)
        assert isinstance(optimizer, AcceleratedOptimizer)
        assert isinstance(scheduler, LRScheduler)
        optimizer.state.clear()
        scheduler.base_lrs = [rate / 2 for rate in scheduler.base_lrs]
        message = f"fine-tuning: diverged {where}; back to step {self.good_step}, step size halved"
        self.events.append(message)
        tqdm.write(message)


def _arguments(settings: FinetuneSettings, folder: Path) -> TrainingArguments:
    cpu = not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=round(settings.warmup * settings.steps),
        weight_decay=settings.weight_decay,
        adam_beta1=0.9,
        adam_beta2=0.95,
        max_grad_norm=settings.clip,
        bf16=settings.bf16,
        use_cpu=cpu,
        dataloader_pin_memory=not cpu,
        seed=settings.seed,
        data_seed=settings.seed,
        logging_steps=min(settings.log_every, settings.steps),
        logging_nan_inf_filter=False,
        save_strategy="steps" if settings.save_every else "no",
        save_steps=settings.save_every or 500,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=False,
    )
