"""Spectral mixers by the compiled library against the same mixers in fp64, step by step."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from mixer_variants import DIM, SPECTRAL, distance, in_pieces, randomised, variants
from torch import Tensor, nn

from undense.errors import UndenseError
from undense.kernels.library import kernels
from undense.measure.flops import count_flops
from undense.mixers import all_parts
from undense.mixing import MixerConfig, SequenceMixer, State, build, default
from undense.ops import spectral_inference, spectral_mixer
from undense.ops.output_gate import unit_gate
from undense.ops.row_fir import row_fir

pytestmark = pytest.mark.skipif(
    kernels().library is None, reason="no compiled library: " + kernels().reason
)
CONFIGS = [config for config in variants() if config.component != "attention"]


def close(got: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    for one, other in zip(got, wanted, strict=True):
        if one.numel():
            assert distance(one.double(), other.double()) <= 3e-5


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.component)
@pytest.mark.parametrize("time", [1, 5, 37])
def test_output_and_state_are_those_in_fp64(
    config: MixerConfig, time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Odd lengths, several products a call, padding, pieces, tokens, rows at different places."""
    monkeypatch.setattr(spectral_inference, "TOKENS", 12)
    mixer = randomised(config)
    exact = copy.deepcopy(mixer).double()
    x = torch.randn(2, time, DIM)
    some = torch.rand(2, time) > 0.3
    cuts = [cut for cut in (3, 4, 5, 6, 7, 8, 9, 21) if cut < time]
    with torch.no_grad():
        for mask in (None, some):
            y, state = mixer(x, None, mask)
            wanted, after = exact(x.double(), None, mask)
            close((y, *state), (wanted, *after))
            y, state = in_pieces(mixer, x, cuts, mask)
            close((y, *state), (wanted, *after))


@pytest.mark.parametrize("name", SPECTRAL)
def test_the_default_sizes_by_one_call_and_by_tokens(name: str) -> None:
    mixer = build(128, default(name)).eval()
    exact = copy.deepcopy(mixer).double()
    x = torch.randn(1, 150, 128)
    with torch.no_grad():
        wanted, after = exact(x.double())
        y, state = mixer(x)
        close((y, *state), (wanted, *after))
        y, state = in_pieces(mixer, x, [120, *range(121, 150)])
        close((y, *state), (wanted, *after))


def operations(run: Callable[[], object]) -> set[str]:
    with torch.profiler.profile() as profile:
        run()
    return {event.key for event in profile.key_averages() if event.key.startswith("undense::")}


def test_inference_is_a_few_operations_and_training_runs_step_by_step() -> None:
    mixer, x = randomised(all_parts(chunk=8)), torch.randn(2, 11, DIM)

    def inference() -> State:
        with torch.no_grad():
            return mixer(x[:, :1], mixer(x)[1])[1]

    assert operations(inference) == {
        "undense::spectral_sums",
        "undense::spectral_stretch",
        "undense::spectral_step",
    }
    assert not {n for n in operations(lambda: mixer(x)) if "spectral" in n}


def thirds(gates: nn.Module) -> None:
    gates.register_forward_hook(lambda *given: tuple(part / 3 for part in given[2]))


def squares(gates: nn.Module) -> None:
    gates.exchange[1] = nn.Softplus()  # type: ignore[index]


@pytest.mark.parametrize("change", [thirds, squares])
def test_what_others_put_into_a_part_is_used(change: Callable[[nn.Module], None]) -> None:
    mixer, x = randomised(all_parts(chunk=8)), torch.randn(2, 11, DIM)
    with torch.no_grad():
        before, state = mixer(x)
        token, _ = mixer(x[:, :1], state)
        token, _ = mixer(x[:, :1], state)  # by what was found for the last one
        change(mixer.gates)  # type: ignore[arg-type]
        after, _ = mixer(x)
        other, _ = mixer(x[:, :1], state)
    assert distance(after, before) > 1e-3
    assert distance(other, token) > 1e-3
    assert distance(after, mixer(x)[0]) <= 1e-5
    assert distance(other, mixer(x[:, :1], state)[0]) <= 1e-5


def test_a_state_in_half_precision_runs_step_by_step() -> None:
    mixer, x = randomised(all_parts(chunk=8)), torch.randn(2, 11, DIM)
    with torch.no_grad():
        state = mixer(x)[1]
        wanted, _ = mixer(x[:, :1], state)
        other = tuple(t.bfloat16() if t.dtype == torch.float32 else t for t in state)
        for piece in (x[:, :1], x):
            got = mixer(piece, other)[0]
            assert distance(got[:, :1].float(), wanted) <= 0.05


@pytest.mark.parametrize("name", ["kernel.raw", "kernel.scale", "bank.phase", "bank.gain"])
def test_weights_written_behind_every_counter_are_seen(name: str) -> None:
    """What follows from the weights is kept from call to call: until they change."""
    mixer, x = randomised(all_parts(chunk=8)), torch.randn(1, 11, DIM)
    with torch.no_grad():
        before, state = mixer(x)
        mixer(x[:, :1], state)
        weight = mixer.get_parameter(name).data
        weight.flatten()[-1] += 1
        after, _ = mixer(x)
        token, _ = mixer(x[:, -1:], mixer(x[:, :-1])[1])
    assert distance(after, before) > 1e-4
    truth = mixer.double()(x.double())[0]
    assert distance(after, truth) <= 1e-5
    assert distance(token, truth[:, -1:]) <= 1e-5


@pytest.mark.parametrize("name", ["project_out.weight", "kernel.raw", "gates.exchange.0.weight"])
def test_weights_turned_in_their_place_are_seen(name: str) -> None:
    mixer, x = randomised(all_parts(chunk=8)), torch.randn(1, 11, DIM)
    with torch.no_grad():
        state = mixer(x)[1]
        mixer(x[:, :1], state)
        weight = mixer.get_parameter(name)
        weight.data = weight.data.as_strided(weight.shape, (1, len(weight)))
        token, _ = mixer(x[:, :1], state)
        truth, _ = copy.deepcopy(mixer).double()(x[:, :1].double(), _double(state))
    assert distance(token, truth) <= 1e-5


def _double(state: State) -> State:
    return tuple(t.double() if t.is_floating_point() else t for t in state)


def test_dropout_alone_in_training_mode_drops() -> None:
    gating = default("spectral_gating", exchange=True, dropout=0.5)
    mixer, x = randomised(default("spectral_layer", gating=gating)), torch.randn(1, 11, DIM)
    with torch.no_grad():
        state = mixer(x)[1]
        mixer(x[:, :1], state)
        for part in mixer.modules():
            part.train(isinstance(part, nn.Dropout))
        for given in ((x,), (x[:, :1], state)):
            assert distance(mixer(*given)[0], mixer(*given)[0]) > 1e-3


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_token_is_computed_anew() -> None:
    mixer, x = randomised(all_parts(chunk=8)), torch.randn(2, 11, DIM)
    with torch.no_grad():
        state = mixer(x[:, :3])[1]
        mixer(x[:, 3:4], state)
        traced = torch.jit.trace(mixer, (x[:, 3:4], state), check_trace=False, strict=False)
        assert distance(traced(x[:, 4:5], state)[0], mixer(x[:, 4:5], state)[0]) <= 1e-5


@pytest.mark.parametrize("pieces", [[], [7], list(range(1, 20))])
def test_a_number_that_is_none_is_seen_in_its_row_alone(pieces: list[int]) -> None:
    mixer, x = randomised(all_parts(chunk=8)), torch.randn(2, 20, DIM)
    expected = mixer(x)[0].detach()
    x[0, 10] = torch.nan
    with torch.no_grad(), pytest.raises(UndenseError, match="not finite"):
        in_pieces(mixer, x, pieces)
    whole = _unchecked(mixer, x)
    assert whole[0, 10:].isnan().all()
    # of its own chunk of 8 too: a product multiplies what is still to come by 0
    assert distance(whole[0, :8], expected[0, :8]) <= 1e-5
    assert distance(whole[1], expected[1]) <= 1e-5


def _unchecked(mixer: SequenceMixer, x: Tensor) -> Tensor:
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(spectral_mixer, "require_finite", lambda *_: None)
        return mixer(x)[0]


def test_a_compiled_graph_has_the_operations() -> None:
    torch.compiler.reset()
    mixer, x = randomised(all_parts(chunk=8)), torch.randn(1, 11, DIM)
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    with torch.no_grad():
        torch.compile(mixer, fullgraph=True, backend=backend)(x)
    assert any("spectral_stretch" in name for name in seen)


@pytest.mark.parametrize(("time", "taps"), [(1, 1), (5, 4), (16, 17), (67, 64), (200, 9)])
def test_filters_along_rows_and_their_way_back(time: int, taps: int) -> None:
    x = torch.randn(2, 5, taps - 1 + time + 3)[..., 3:].requires_grad_()  # rows that lie apart
    weight = torch.randn(5, taps, requires_grad=True)
    grad = torch.randn(2, time, 5).mT  # as from a product with time first
    y = row_fir(x, weight, block=0)
    y.backward(grad)
    exact, exact_weight = (t.detach().double().requires_grad_() for t in (x, weight))
    windows = exact.unfold(2, taps, 1)
    wanted = (windows * exact_weight.flip(1)[None, :, None]).sum(-1)
    wanted.backward(grad.double())
    assert x.grad is not None and weight.grad is not None
    assert exact.grad is not None and exact_weight.grad is not None
    close((y, x.grad, weight.grad), (wanted, exact.grad, exact_weight.grad))


@pytest.mark.parametrize("summands", [1, 2, 3])
@pytest.mark.parametrize("chunk", [1, 5, 16, 20])
def test_the_gate_of_the_output_and_its_way_back(summands: int, chunk: int) -> None:
    z = torch.randn(2, 3 * 7, 2 * chunk, requires_grad=True)
    shape = (2, 3, 2, 7, chunk)
    parts = [torch.randn(shape, requires_grad=True) for _ in range(summands)]
    grad = torch.randn_like(z)
    y = unit_gate(z, *(part.transpose(2, 3) for part in parts))
    y.backward(grad)
    exact = [t.detach().double().requires_grad_() for t in (z, *parts)]
    u = torch.stack([part.transpose(2, 3) for part in exact[1:]]).sum(0)
    unit = u * (u.square().mean(2, keepdim=True) + 1e-6).rsqrt()
    wanted = unit.flatten(3).flatten(1, 2) * nn.functional.silu(exact[0])
    wanted.backward(grad.double())
    got = [t.grad for t in (z, *parts)]
    close((y, *got), (wanted, *(t.grad for t in exact)))  # type: ignore[arg-type]


def test_threads_do_not_change_a_bit() -> None:
    x, weight = torch.randn(2, 37, 90, requires_grad=True), torch.randn(37, 11, requires_grad=True)
    z, u = torch.randn(2, 37 * 4, 80, requires_grad=True), torch.randn(2, 37, 4, 5, 16)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        y, gated = row_fir(x, weight, block=0), unit_gate(z, u)
        grads = torch.autograd.grad(y.square().sum() + gated.square().sum(), (x, weight, z))
        found.append((y, gated, *grads))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_a_step_costs_what_its_steps_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The price of the operation is that of the operations in whose place it stands."""
    mixer, x = build(DIM, all_parts(chunk=8)).eval(), torch.randn(2, 21, DIM)

    def counted() -> list[int]:
        with torch.no_grad():
            state = mixer(x)[1]
            calls = [lambda: mixer(x), lambda: mixer(x[:, :1], state), lambda: mixer(x, state)]
            return [count_flops(call).dispatched for call in calls]

    compiled = counted()
    monkeypatch.setattr(spectral_mixer, "served", lambda *_: None)
    assert compiled == counted()
