"""Pretraining from scratch: a recipe in, a stock Hugging Face folder out."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import load_model
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.integrations.integration_utils import TensorBoardCallback

from undense.errors import DivergenceError, UndenseError
from undense.files import new_parents, write_json
from undense.train.build import build_model
from undense.train.checkpoints import last_checkpoint, step_of
from undense.train.corpus import Corpus, load_corpus
from undense.train.groups import parameter_groups
from undense.train.publish import publish
from undense.train.recipe import PretrainRecipe
from undense.train.tokens import BlockDataset, encode, train_tokenizer


def pretrain(
    recipe: PretrainRecipe,
    output_dir: str | Path,
    *,
    build: Callable[[PretrainRecipe, PreTrainedTokenizerBase], PreTrainedModel] = build_model,
    resume: bool = True,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train `recipe` into the folder `output_dir`; returns what `metrics.json` holds.

    `build` makes the untrained model of a recipe; the one given knows hosts, not replacements.

    A folder that already has checkpoints of the same recipe and corpus is continued from the
    last one: the weights are those of a run that was never interrupted. Raises `UndenseError`
    for a folder of another run, for one with checkpoints where `resume` is false, and where the
    loss stops being finite."""
    folder = Path(output_dir)
    checkpoint = last_checkpoint(folder)
    if checkpoint is not None and not resume:
        raise UndenseError(
            f"{folder} already holds {checkpoint.name}; continue it, or give another folder"
        )
    corpus = load_corpus(recipe.data)
    identity = {"recipe": recipe.to_dict(), "corpus": corpus.sha256}
    if checkpoint is not None:
        _require_same_run(folder, identity)
    elif folder.exists() and not _is_empty(folder) and not (folder / "run.json").is_file():
        raise UndenseError(f"{folder} exists and is no pretraining run; give another folder")

    set_seed(recipe.seed)
    tokenizer = tokenizer_of(recipe, corpus)
    train_tokens = encode(corpus, "train", tokenizer)
    heldout = BlockDataset(
        encode(corpus, "heldout", tokenizer), recipe.context, limit=recipe.eval_limit
    )
    model = build(recipe, tokenizer)
    train_blocks = BlockDataset(train_tokens, recipe.context)
    with _kept_if_useful(folder):
        write_json(folder / "run.json", identity)
        _fit(model, recipe, train_blocks, heldout, folder, checkpoint, callbacks)
        return publish(
            model,
            tokenizer,
            recipe=recipe,
            corpus=corpus,
            train_tokens=train_tokens,
            heldout=heldout,
            folder=folder,
        )


def _fit(
    model: PreTrainedModel,
    recipe: PretrainRecipe,
    train: BlockDataset,
    heldout: BlockDataset,
    folder: Path,
    checkpoint: Path | None,
    callbacks: Sequence[TrainerCallback],
) -> None:
    """Train `model` in place, from `checkpoint` on where there is one."""
    trainer = Trainer(
        model=model,
        args=_arguments(recipe, folder),
        train_dataset=train,
        eval_dataset=heldout,
        optimizers=(optimizer_of(model, recipe), None),
        callbacks=[
            TensorBoardCallback(SummaryWriter(log_dir=str(folder / "tensorboard"))),
            _StopWhenNotFinite(folder),
            *callbacks,
        ],
    )
    if checkpoint is not None and step_of(checkpoint) >= recipe.steps:
        # The Trainer would take one more step before it notices that none is left.
        load_model(model, checkpoint / "model.safetensors")
    else:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        # With bf16 the Trainer leaves autocast around `forward`; what follows is float32.
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)


@contextmanager
def _kept_if_useful(folder: Path) -> Iterator[None]:
    """`folder`, made where it is missing; of a failed run it keeps only what can be continued."""
    existed, empty = (folder.exists(), not folder.exists() or _is_empty(folder))
    with new_parents(folder):
        try:
            folder.mkdir(exist_ok=True)
            yield
        except BaseException:
            if empty and last_checkpoint(folder) is None:
                shutil.rmtree(folder, ignore_errors=True)
                if existed:
                    folder.mkdir()
            raise


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


@final
class _StopWhenNotFinite(TrainerCallback):
    """Ends the run at the first loss or gradient that is not finite."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # A log comes before the save of the same step, so no checkpoint outlives its own check.
        control.should_log = control.should_log or control.should_save

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        watched = {name: (logs or {}).get(name, 0.0) for name in ("loss", "grad_norm")}
        bad = {name: value for name, value in watched.items() if not math.isfinite(float(value))}
        if bad:
            last = last_checkpoint(self.folder)
            kept = "no checkpoint was written" if last is None else f"{last.name} is the last good"
            raise DivergenceError(
                f"training diverged at step {state.global_step}: {bad}; {kept}; "
                f"lower learning_rate={args.learning_rate}, or use dtype fp32"
            )


def tokenizer_of(recipe: PretrainRecipe, corpus: Corpus) -> PreTrainedTokenizerBase:
    """The tokenizer that a recipe asks for, trained on the training split."""
    texts = (document.text for document in corpus.train)
    return train_tokenizer(texts, vocab_size=recipe.vocab_size, context=recipe.context)


def optimizer_of(model: PreTrainedModel, recipe: PretrainRecipe) -> torch.optim.Optimizer:
    """AdamW with the groups that a recipe asks for."""
    groups = parameter_groups(
        model,
        rate=recipe.learning_rate,
        decay=recipe.weight_decay,
        factor_rates=recipe.factor_rates,
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


def _require_same_run(folder: Path, identity: dict[str, Any]) -> None:
    try:
        earlier = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UndenseError(
            f"{folder} has checkpoints but no readable run.json; give another folder"
        ) from error
    # Through the class, so that a field that is newer than the run counts with its default.
    before = {
        **PretrainRecipe.from_dict(earlier["recipe"]).to_dict(),
        "corpus": earlier["corpus"],
    }
    now = {**identity["recipe"], "corpus": identity["corpus"]}
    changed = sorted(key for key in now if before[key] != now[key])
    if changed:
        raise UndenseError(
            f"{folder} holds checkpoints of another run (differs in {', '.join(changed)}); "
            "give another folder, or the same recipe and data"
        )
