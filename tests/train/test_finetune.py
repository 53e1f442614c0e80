"""Fine-tuning by the Trainer: what moves, what stays, and the way back from divergence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from undense.convert.convert import convert_
from undense.errors import UndenseError
from undense.train.finetune import finetune
from undense.train.settings import FinetuneSettings
from undense.train.tokens import BlockDataset


def model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=32,
        n_positions=16,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config).eval()


def dataset() -> BlockDataset:
    return BlockDataset(torch.randint(32, (640,)).int(), 16)


def state(of: GPT2LMHeadModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in of.state_dict().items()}


def test_only_the_replaced_ffns_move_when_asked(tmp_path: Path) -> None:
    student = model()
    convert_(student, "dense-50", targets=["0"], calibration=torch.randint(32, (8, 16)))
    before = state(student)
    finetune(student, dataset(), FinetuneSettings(steps=2, batch=2, train="ffn"), tmp_path)
    moved = {n for n, v in student.state_dict().items() if not torch.equal(v, before[n])}
    assert moved and all(name.startswith("transformer.h.0.mlp") for name in moved)
    assert all(p.requires_grad for p in student.parameters())


def test_training_ffns_of_a_dense_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UndenseError, match="convert the model first"):
        finetune(model(), dataset(), FinetuneSettings(steps=1, train="ffn"), tmp_path)


def test_a_teacher_is_needed_exactly_where_it_weighs(tmp_path: Path) -> None:
    with pytest.raises(UndenseError, match=r"teacher_weight=0\.5 needs a teacher"):
        finetune(model(), dataset(), FinetuneSettings(steps=1, teacher_weight=0.5), tmp_path)
    with pytest.raises(UndenseError, match="needs a teacher"):
        finetune(model(), dataset(), FinetuneSettings(steps=1), tmp_path, teacher=model())


def test_learning_from_the_teacher_alone_approaches_its_logits(tmp_path: Path) -> None:
    teacher, student = model(), model()
    ids = torch.randint(32, (4, 16))
    with torch.no_grad():
        for block in student.transformer.h:
            block.mlp.c_proj.weight.add_(torch.randn_like(block.mlp.c_proj.weight) * 0.5)
        before = (student(ids).logits - teacher(ids).logits).square().mean()
    settings = FinetuneSettings(steps=30, batch=4, learning_rate=3e-3, teacher_weight=1.0)
    finetune(student, dataset(), settings, tmp_path, teacher=teacher)
    with torch.no_grad():
        after = (student(ids).logits - teacher(ids).logits).square().mean()
    assert after < 0.5 * before


def test_divergence_goes_back_to_the_last_good_weights_and_says_so(tmp_path: Path) -> None:
    student = model()
    settings = FinetuneSettings(
        steps=12, batch=2, learning_rate=30.0, warmup=0.5, clip=1e9, log_every=1, divergence=1.05
    )
    result = finetune(student, dataset(), settings, tmp_path)
    assert result.events and "diverged at step" in result.events[0]
    assert all(torch.isfinite(p).all() for p in student.parameters())


def test_the_loss_that_is_logged_is_the_mean_over_predictions(tmp_path: Path) -> None:
    """A fresh model over 32 symbols starts at ln 32; a loss averaged over one prediction too many
    in every block of 16 would start at 15/16 of it."""
    settings = FinetuneSettings(steps=1, batch=8, learning_rate=1e-9, log_every=1)
    result = finetune(model(), dataset(), settings, tmp_path)
    assert result.curve[0][1] == pytest.approx(3.466, rel=0.02)


def converted() -> GPT2LMHeadModel:
    student = model()
    convert_(student, "dense-50", calibration=torch.randint(32, (8, 16)))
    return student


def moved(student: GPT2LMHeadModel, before: dict[str, torch.Tensor]) -> set[str]:
    after = student.state_dict()
    assert set(after) == set(before)
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def test_lora_moves_ffns_and_attention_and_leaves_no_adapter_behind(tmp_path: Path) -> None:
    student = converted()
    before = state(student)
    settings = FinetuneSettings(steps=2, batch=2, train="lora", lora_rank=2, save_every=1)
    finetune(student, dataset(), settings, tmp_path)
    changed = moved(student, before)
    attention = {n for n in before if ".attn." in n and n.endswith("weight")}
    assert attention <= changed
    assert all(".attn." in name or ".mlp." in name for name in changed)
    assert any(".mlp." in name for name in changed)
    update = (
        student.transformer.h[0].attn.c_attn.weight - before["transformer.h.0.attn.c_attn.weight"]
    )
    assert torch.linalg.matrix_rank(update.detach(), rtol=1e-3) <= 2
    assert all(p.requires_grad for p in student.parameters())


def test_stepwise_unfreezes_attention_and_norms_in_the_second_stage(tmp_path: Path) -> None:
    student = converted()
    before = state(student)
    # two steps of which the first moves the FFNs alone
    settings = FinetuneSettings(steps=2, batch=2, train="stepwise", save_every=1)
    seen: list[set[str]] = []
    handle = student.register_forward_pre_hook(
        lambda *_: seen.append({n for n, p in student.named_parameters() if p.requires_grad}),
    )
    finetune(student, dataset(), settings, tmp_path)
    handle.remove()
    first, second = seen
    assert first and all(".mlp." in name for name in first)
    assert first < second and {n for n in before if ".attn." in n or "ln_" in n} <= second
    assert not second & {"transformer.wte.weight", "transformer.wpe.weight"}
    assert moved(student, before) == second
    assert all(p.requires_grad for p in student.parameters())


@pytest.mark.parametrize("train", ["lora", "stepwise"])
def test_an_interrupted_run_continues_to_the_same_weights(train: str, tmp_path: Path) -> None:
    settings = FinetuneSettings(steps=4, batch=2, train=train, save_every=2)  # type: ignore[arg-type]
    torch.manual_seed(5)
    data = dataset()
    whole, halves = converted(), converted()
    finetune(whole, data, settings, tmp_path / "whole")

    def stop(module: object, inputs: object) -> None:
        if (tmp_path / "halves" / "checkpoint-2" / "trainer_state.json").is_file():
            raise KeyboardInterrupt

    handle = halves.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        finetune(halves, data, settings, tmp_path / "halves")
    handle.remove()
    again = converted()
    finetune(again, data, settings, tmp_path / "halves")
    assert not moved(again, state(whole))


def test_the_replaced_ffns_can_step_more_carefully_than_the_rest(tmp_path: Path) -> None:
    careful, bold = converted(), converted()
    before = state(careful)
    data = dataset()
    for student, rate in ((careful, 0.01), (bold, 1.0)):
        settings = FinetuneSettings(steps=1, batch=2, warmup=0.0, ffn_rate=rate, save_every=0)
        finetune(student, data, settings, tmp_path)
    name = "transformer.h.0.mlp.up.weight"
    steps = [(s.state_dict()[name] - before[name]).norm() for s in (careful, bold)]
    assert steps[0] / steps[1] == pytest.approx(0.01, rel=0.05)
    other = "transformer.wte.weight"
    assert torch.equal(careful.state_dict()[other], bold.state_dict()[other])
