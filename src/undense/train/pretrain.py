"""Pretraining from scratch: a recipe in, a stock Hugging Face folder out."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, set_seed

from undense.errors import UndenseError
from undense.files import new_parents, write_json
from undense.train.build import build_model
from undense.train.checkpoints import last_checkpoint
from undense.train.corpus import Corpus, load_corpus
from undense.train.fitting import SaveFFNs, fit
from undense.train.guide import guides_of
from undense.train.metrics import run_metrics
from undense.train.progress import Progress
from undense.train.publish import publish
from undense.train.recipe import PretrainRecipe
from undense.train.reverts import FILE as REVERTS
from undense.train.reverts import DivergenceError, Reverts
from undense.train.scales import scale_
from undense.train.tokens import BlockDataset, byte_tokenizer, corpus_tokenizer, encode
from undense.train.work import work_of

Build = Callable[[PretrainRecipe, PreTrainedTokenizerBase], PreTrainedModel]


def pretrain(
    recipe: PretrainRecipe,
    output_dir: str | Path,
    *,
    build: Build = build_model,
    save_ffns: SaveFFNs | None = None,
    resume: bool = True,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train `recipe` into the folder `output_dir`; returns what `metrics.json` holds.

    `build` makes the untrained model of a recipe; the one given knows hosts, not replacements.
    `save_ffns` writes the FFNs of a model alone into a folder, for `save_ffns_every`.
    `undense.pipeline.pretraining.pretrain_from` gives both.

    A folder that already has checkpoints of the same recipe and corpus is continued from the
    last one: the weights are those of a run that was never interrupted. A run that diverges goes
    back by itself (`reverts.py`). Raises `UndenseError` for a folder of another run, for one with
    checkpoints where `resume` is false, and where the run diverges once more than `reverts`."""
    if recipe.save_ffns_every is not None and save_ffns is None:
        raise UndenseError(
            f"recipe: save_ffns_every={recipe.save_ffns_every} needs save_ffns=; use"
            " undense.pipeline.pretraining.pretrain_from"
        )
    folder = Path(output_dir)
    checkpoint = last_checkpoint(folder)
    if checkpoint is not None and not resume:
        raise UndenseError(
            f"{folder} already holds {checkpoint.name}; continue it, or give another folder"
        )
    corpus = load_corpus(recipe.data)
    identity = {"recipe": recipe.to_dict(), "corpus": corpus.sha256}
    if checkpoint is not None or (folder / REVERTS).is_file():
        _require_same_run(folder, identity)
    elif folder.exists() and not _is_empty(folder) and not (folder / "run.json").is_file():
        raise UndenseError(f"{folder} exists and is no pretraining run; give another folder")

    tokenizer = tokenizer_of(recipe, corpus)
    train_tokens = encode(corpus, "train", tokenizer)
    heldout = BlockDataset(
        encode(corpus, "heldout", tokenizer), recipe.context, limit=recipe.eval_limit
    )
    train = BlockDataset(train_tokens, recipe.context)
    with _kept_if_useful(folder):
        write_json(folder / "run.json", identity)
        reverts = Reverts(folder, most=recipe.reverts)
        model, progress = _trained(
            recipe,
            tokenizer,
            train,
            heldout,
            folder,
            build=build,
            save_ffns=save_ffns,
            reverts=reverts,
            callbacks=callbacks,
        )
        taken = [*range(recipe.steps), *reverts.steps_lost()]
        work = work_of(model, recipe, taken, blocks=len(train))
        if (guides := guides_of(model)) is not None:
            guides.remove(model)

        def measure() -> dict[str, Any]:
            return run_metrics(
                model,
                tokenizer,
                recipe=recipe,
                corpus=corpus,
                train_tokens=train_tokens,
                heldout=heldout,
                work=work,
                seconds=reverts.seconds(progress.seconds),
                reverts=reverts,
            )

        return publish(model, tokenizer, recipe=recipe, folder=folder, measure=measure)


def _trained(
    recipe: PretrainRecipe,
    tokenizer: PreTrainedTokenizerBase,
    train: BlockDataset,
    heldout: BlockDataset,
    folder: Path,
    *,
    build: Build,
    save_ffns: SaveFFNs | None,
    reverts: Reverts,
    callbacks: Sequence[TrainerCallback],
) -> tuple[PreTrainedModel, Progress]:
    """The model at the end, and the progress of its run; each attempt starts from the last
    checkpoint, by the same way as a run that was killed."""
    while True:
        checkpoint = last_checkpoint(folder)
        progress = Progress.load(checkpoint)
        set_seed(recipe.seed)
        model = build(recipe, tokenizer)
        if recipe.guide and guides_of(model) is None:
            raise UndenseError(
                f"recipe: guide={recipe.guide} is given by"
                " undense.pipeline.pretraining.build_from; pass it as build="
            )
        scale_(model, factor_scales=recipe.factor_scales, scales=recipe.scales)
        try:
            fit(
                model,
                recipe,
                train,
                heldout,
                folder,
                checkpoint=checkpoint,
                progress=progress,
                halvings=len(reverts.events),
                save_ffns=save_ffns,
                callbacks=callbacks,
            )
        except DivergenceError as error:
            reverts.add(error, progress, learning_rate=recipe.learning_rate)
        else:
            return model, progress


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


def tokenizer_of(recipe: PretrainRecipe, corpus: Corpus) -> PreTrainedTokenizerBase:
    """The tokenizer that a recipe asks for: bytes, or trained on the training split."""
    if recipe.tokenizer == "bytes":
        return byte_tokenizer(context=recipe.context)
    return corpus_tokenizer(corpus, vocab_size=recipe.vocab_size, context=recipe.context)


def _require_same_run(folder: Path, identity: dict[str, Any]) -> None:
    try:
        earlier = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UndenseError(
            f"{folder} holds the state of a run but no readable run.json; give another folder"
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
            f"{folder} holds the state of another run (differs in {', '.join(changed)}); "
            "give another folder, or the same recipe and data"
        )
