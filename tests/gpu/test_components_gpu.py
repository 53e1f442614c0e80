"""Every FFN component and every mixer on a GPU: as on the CPU, forward and back, and in models."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from hosts import calibration, inputs, tiny
from mixer_variants import DIM as MIXER_DIM
from mixer_variants import TIME, in_pieces, label, randomised, variants
from test_spectral_models import ARMS
from test_spectral_models import build as spectral_model
from torch import Tensor, nn

import undense.ffn  # noqa: F401  (registers the components)
from undense.contract import DenseShape, build, components
from undense.convert.convert import convert_
from undense.ffn.presets import resolve
from undense.measure.ffn_arms import quiet
from undense.mixers import all_parts
from undense.mixing import MixerConfig, default, mixers

DIM = 128
SHAPE = DenseShape(dim=DIM, hidden=4 * DIM)
SPECS = [*components(), "ultra-25", "ultra-small-25", "ultra-all-25", "seed", "block_topk-25"]
# fp32 on both sides, whose sums, transforms and activations differ by their order of operations.
OFF = 1e-4


def off(one: Tensor, other: Tensor, floor: float = 0.0) -> float:
    """|one - other| / |other|, or over a floor where `other` is but what cancelling left."""
    assert one.is_cuda and torch.isfinite(one).all()
    difference = (one.cpu().double() - other.double()).norm().item()
    return difference / max(other.double().norm().item(), floor, 1e-30)


def gradients(module: nn.Module, x: Tensor, received: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output (of a mixer, the first) and the gradients of the input and the parameters."""
    x = x.detach().requires_grad_()
    found = module(x)
    y = found[0] if isinstance(found, tuple) else found
    named = {"input": x, **dict(module.named_parameters())}
    if not y.requires_grad:  # no FFN at all
        return y, {}
    ends = list(named.values())
    back = torch.autograd.grad(y, ends, received.to(y.dtype), allow_unused=True)
    pairs = zip(named, back, strict=True)
    return y.detach(), {name: gradient for name, gradient in pairs if gradient is not None}


def same_on_gpu(module: nn.Module, x: Tensor) -> None:
    received = torch.randn(x.shape)
    y, wanted = gradients(module, x, received)
    moved = deepcopy(module).cuda()
    on_gpu, got = gradients(moved, x.cuda(), received.cuda())
    errors = {"output": off(on_gpu, y)}
    assert got.keys() == wanted.keys()
    whole = sum(g.double().norm().item() ** 2 for g in wanted.values()) ** 0.5
    for name, gradient in wanted.items():
        errors[name] = off(got[name], gradient, 0.01 * whole)
    assert max(errors.values()) <= OFF, errors
    with torch.no_grad():  # where no gradient is wanted another path may be taken
        quick = moved(x.cuda())
        assert off(quick[0] if isinstance(quick, tuple) else quick, y) <= OFF
    with torch.autocast("cuda", torch.bfloat16):
        half, back = gradients(moved, x.cuda(), received.cuda())
    for tensor in (half, *back.values()):
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("spec", SPECS)
def test_a_component_is_on_a_gpu_what_it_is_on_the_cpu(spec: str) -> None:
    component = build(DIM, quiet(resolve(spec, SHAPE))).eval()  # in training some draw at random
    with torch.no_grad():
        for parameter in component.parameters():  # a start may hide what is wrong
            parameter.add_(0.05 * torch.randn_like(parameter))
    same_on_gpu(component, torch.randn(2, 33, DIM))


@pytest.mark.parametrize("spec", ["ultra-25", "tensor_factor-25", "ultra-small-25"])
def test_a_component_in_bf16_is_near_the_one_on_the_cpu(spec: str) -> None:
    component = build(DIM, quiet(resolve(spec, SHAPE))).bfloat16()
    x = torch.randn(64, DIM).bfloat16()
    with torch.no_grad():
        wanted, got = component(x), deepcopy(component).cuda()(x.cuda())
    assert got.dtype == torch.bfloat16
    # 8 bits, a few roundings in a row; where near-equal blocks compete the choice may differ
    far = (got.cpu().float() - wanted.float()).abs().amax(-1) > 0.05 * wanted.float().abs().max()
    assert far.sum() <= 4


def stateful_on_gpu(config: MixerConfig, dim: int, time: int, cuts: list[int]) -> None:
    mixer, x = randomised(config, dim=dim), torch.randn(2, time, dim)
    same_on_gpu(mixer, x)
    with torch.no_grad():
        wanted, after = mixer(x)
        pieces, state = in_pieces(deepcopy(mixer).cuda(), x.cuda(), cuts)
    assert off(pieces, wanted) <= OFF
    for tensor, other in zip(state, after, strict=True):
        assert tensor.is_cuda and tensor.dtype == other.dtype and tensor.shape == other.shape
        assert torch.isfinite(tensor).all()
    assert torch.equal(state[0].cpu(), after[0])


@pytest.mark.parametrize("config", variants(), ids=label)
def test_a_mixer_is_on_a_gpu_what_it_is_on_the_cpu(config: MixerConfig) -> None:
    """Forward, back, and in pieces with a state, single tokens among them."""
    stateful_on_gpu(config, MIXER_DIM, TIME, [1, 9, 10, 11, 24])


@pytest.mark.parametrize("name", [*mixers(), "all_parts"])
def test_a_mixer_of_the_default_sizes_is_on_a_gpu_what_it_is_on_the_cpu(name: str) -> None:
    config = all_parts() if name == "all_parts" else default(name)
    assert isinstance(config, MixerConfig)
    stateful_on_gpu(config, 64, 700, [300, 301, 512])


def test_padding_on_a_gpu_changes_nothing() -> None:
    mask = torch.rand(2, TIME) > 0.3
    for config in (default("attention"), all_parts(chunk=8)):
        assert isinstance(config, MixerConfig)
        mixer, x = randomised(config), torch.randn(2, TIME, MIXER_DIM)
        with torch.no_grad():
            wanted = mixer(x, None, mask)[0]
            assert off(deepcopy(mixer).cuda()(x.cuda(), None, mask.cuda())[0], wanted) <= OFF


def same_text(model: nn.Module, ids: Tensor) -> None:
    greedy = {"max_new_tokens": 16, "min_new_tokens": 16, "do_sample": False}
    wanted = model.generate(ids, **greedy)  # type: ignore[operator]
    moved = deepcopy(model).cuda()
    assert torch.equal(moved.generate(ids.cuda(), **greedy).cpu(), wanted)  # type: ignore[operator]


def test_a_converted_model_writes_the_same_text() -> None:
    model = tiny("gpt2")
    convert_(model, "ultra-25", calibration=calibration(model))
    same_text(model, inputs(model)["input_ids"])


def test_a_model_is_converted_where_it_is() -> None:
    model = tiny("gpt2")
    batches = [{k: v.cuda() for k, v in batch.items()} for batch in calibration(model)]
    moved = deepcopy(model).cuda()
    told = convert_(model, "ultra-25", calibration=calibration(model))
    there = convert_(moved, "ultra-25", calibration=batches)
    assert {p.device.type for p in moved.parameters()} == {"cuda"}
    # fitted to inputs that differ by rounding: near-equal neurons may change places
    for one, other in zip(there.sites, told.sites, strict=True):
        assert one.relative_error == pytest.approx(other.relative_error, rel=0.05)
    ids = inputs(model)["input_ids"].cuda()
    with torch.no_grad():
        assert torch.isfinite(moved(ids).logits).all()


@pytest.mark.parametrize("arm", ARMS)
def test_a_spectral_model_writes_the_same_text(arm: str) -> None:
    same_text(spectral_model(**ARMS[arm]), torch.randint(2, 48, (2, 11)))
