"""The loop of a pretraining run: Hugging Face's Trainer, watched, timed, and exact to resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.integration_utils import TensorBoardCallback

from undense.train.checkpoints import step_of
from undense.train.groups import parameter_groups
from undense.train.guide import Guides, guides_of
from undense.train.progress import Progress
from undense.train.recipe import PretrainRecipe
from undense.train.reverts import DivergenceError, require_finite
from undense.train.tokens import BlockDataset

SaveFFNs = Callable[[PreTrainedModel, Path], object]


def fit(
    model: PreTrainedModel,
    recipe: PretrainRecipe,
    train: BlockDataset,
    heldout: BlockDataset,
    folder: Path,
    *,
    checkpoint: Path | None,
    progress: Progress,
    halvings: int,
    save_ffns: SaveFFNs | None,
    callbacks: Sequence[TrainerCallback],
) -> None:
    """Train `model` in place, from `checkpoint` on where there is one, keeping `progress`.

    `halvings`: how often the learning rate shall have been halved by now. Raises `DivergenceError`,
    the model then being of no use.
    """
    writer = SummaryWriter(log_dir=str(folder / "tensorboard"))
    trainer = _PretrainTrainer(
        model=model,
        args=_arguments(recipe, folder),
        train=train,
        heldout=heldout,
        optimizer=optimizer_of(model, recipe),
        progress=progress,
        jump=recipe.divergence,
        callbacks=[
            TensorBoardCallback(writer),
            _Steps(
                progress,
                halvings=halvings,
                guides=guides_of(model),
                saved_every=recipe.save_ffns_every,
                save_ffns=save_ffns,
            ),
            *callbacks,
        ],
    )
    try:
        if checkpoint is not None and step_of(checkpoint) >= recipe.steps:
            # The Trainer would take one more step before it notices that none is left.
            load_model(model, checkpoint / "model.safetensors")
        else:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
            # With bf16 the Trainer leaves autocast around `forward`; what follows is float32.
            trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    finally:
        writer.close()


@final
class _PretrainTrainer(Trainer):
    """The Trainer, which judges every loss and keeps the progress with each checkpoint."""

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        args: TrainingArguments,
        train: BlockDataset,
        heldout: BlockDataset,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        jump: float,
        callbacks: list[TrainerCallback],
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            train_dataset=train,
            eval_dataset=heldout,
            optimizers=(optimizer, None),
            callbacks=callbacks,
        )
        self.progress = progress
        self.jump = jump

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        begun = time.perf_counter()
        loss = super().training_step(model, inputs, num_items_in_batch)
        wrong = self.progress.judge(float(loss), jump=self.jump)
        if wrong is not None:
            self.progress.spend(time.perf_counter() - begun)
            raise DivergenceError(self.state.global_step + 1, wrong)
        return loss

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        # Before the Trainer's state, which makes a checkpoint whole.
        super().save_model(output_dir, _internal_call)
        if output_dir is not None:
            self.progress.save(Path(output_dir))


@final
class _Steps(TrainerCallback):
    """Times the steps, tells guides which one it is, halves the rate after a return, saves the FFNs
    alone, and lets no weights be saved that are not finite."""

    def __init__(
        self,
        progress: Progress,
        *,
        halvings: int,
        guides: Guides | None,
        saved_every: int | None,
        save_ffns: SaveFFNs | None,
    ) -> None:
        self.progress = progress
        self.halvings = halvings
        self.guides = guides
        self.saved_every = saved_every
        self.save_ffns = save_ffns
        self.begun = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        factor = 0.5 ** (self.halvings - self.progress.halvings)
        self.progress.halvings = self.halvings
        optimizer, scheduler = (kwargs["optimizer"], kwargs["lr_scheduler"])
        for group in optimizer.param_groups:
            group["lr"] *= factor
            group["initial_lr"] *= factor
        known = scheduler.state_dict()
        rates = {n: [rate * factor for rate in known[n]] for n in ("base_lrs", "_last_lr")}
        scheduler.load_state_dict(known | rates)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.begun = time.perf_counter()
        if self.guides is not None:
            self.guides.begin(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.progress.spend(time.perf_counter() - self.begun)
        step, every = (state.global_step, self.saved_every)
        alone = every is not None and step % every == 0
        if control.should_save or alone:
            # The loss judges the weights before a step; those after it are what is kept.
            require_finite(kwargs["model"], step)
        if alone and self.save_ffns is not None:
            assert args.output_dir is not None
            self.save_ffns(kwargs["model"], Path(args.output_dir) / "ffns" / f"step-{step}")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        norm = float((logs or {}).get("grad_norm", 0.0))
        if not math.isfinite(norm):
            raise DivergenceError(state.global_step, f"gradient norm {norm}")


def optimizer_of(model: PreTrainedModel, recipe: PretrainRecipe) -> torch.optim.Optimizer:
    """AdamW with the groups that a recipe asks for."""
    groups = parameter_groups(
        model,
        rate=recipe.learning_rate,
        decay=recipe.weight_decay,
        factor_rates=recipe.factor_rates,
        rates=recipe.rates,
    )
    return torch.optim.AdamW(groups, betas=(recipe.beta1, recipe.beta2), eps=1e-8, fused=True)


def _arguments(recipe: PretrainRecipe, folder: Path) -> TrainingArguments:
    cpu = not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch,
        per_device_eval_batch_size=recipe.batch,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(recipe.warmup * recipe.steps),
        max_grad_norm=recipe.clip,
        bf16=recipe.dtype == "bf16",
        use_cpu=cpu,
        dataloader_pin_memory=not cpu,
        seed=recipe.seed,
        data_seed=recipe.seed,
        save_steps=recipe.save_every,
        save_total_limit=2,
        eval_strategy="steps",
        eval_steps=recipe.eval_every,
        logging_steps=recipe.log_every,
        logging_nan_inf_filter=False,
        prediction_loss_only=True,
        report_to="none",  # the TensorBoard callback is given with its folder
        disable_tqdm=False,
    )
