"""Which calls compiled inference takes, and what it must leave to PyTorch: it reads addresses."""

from __future__ import annotations

import math
from collections.abc import Callable

import accelerate
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from undense.errors import UndenseError
from undense.ffn.block_topk import BlockTopK
from undense.ffn.micro_refine import SparseMicroRefine
from undense.kernels.library import kernels

pytestmark = pytest.mark.skipif(
    kernels().library is None, reason="no compiled library: " + kernels().reason
)
DIM = 32


def ffn() -> BlockTopK:
    config = BlockTopK.Config(hidden=64, block=8, chosen=2, rank=2, shared=8)
    component = BlockTopK(DIM, config).eval()
    for parameter in component.parameters():
        parameter.data.add_(torch.randn_like(parameter) / 10)
    return component


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Shifted(nn.Module):
    """As an adapter wraps a map."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + torch.linspace(-3, 3, 7)


def offloaded(component: BlockTopK) -> None:
    accelerate.cpu_offload(component, execution_device=torch.device("cpu"))


def wrapped(component: BlockTopK) -> None:
    component.router = Shifted(component.router)  # type: ignore[assignment]


def replaced(component: BlockTopK) -> None:
    component.router.forward = lambda rows: rows[:, :7] * 3  # type: ignore[method-assign]


CHANGES: dict[str, Callable[[BlockTopK], object]] = {
    "weight": lambda c: parametrize.register_parametrization(c, "up", Twice()),
    "bias": lambda c: parametrize.register_parametrization(c, "up_bias", Twice()),
    "shared": lambda c: parametrize.register_parametrization(c.shared_up, "bias", Twice()),
    "pruned": lambda c: prune.random_unstructured(c, "down", 0.5),
    "pruned within": lambda c: prune.random_unstructured(c.shared_down, "weight", 0.5),
    "hook": lambda c: c.router.register_forward_hook(lambda *of: -of[2]),
    "hook before": lambda c: c.router.register_forward_pre_hook(lambda _, given: (-given[0],)),
    "wrapped": wrapped,
    "replaced": replaced,
    "offloaded": offloaded,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_others_put_into_the_component_is_used(change: Callable[[BlockTopK], object]) -> None:
    component, x = ffn(), torch.randn(5, DIM)
    with torch.no_grad():
        before = component(x)
        change(component)
        got = component(x)
    assert torch.allclose(got, component(x), atol=1e-5)
    assert change is offloaded or not torch.allclose(got, before, atol=1e-2)


def test_parameters_on_no_device_are_not_read() -> None:
    with torch.no_grad(), pytest.raises(RuntimeError, match="meta"):
        ffn().to("meta")(torch.randn(5, DIM))


@pytest.mark.parametrize("build", [ffn, lambda: SparseMicroRefine(DIM, SparseMicroRefine.Config())])
@pytest.mark.parametrize(
    "dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)]
)
def test_mixed_dtypes_end_as_they_do_step_by_step(
    build: Callable[[], nn.Module], dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    component, x = build().eval().to(dtypes[0]), torch.randn(5, DIM, dtype=dtypes[1])
    try:
        expected = component(x).dtype
    except RuntimeError:
        with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
            component(x)
    else:
        with torch.no_grad():
            assert component(x).dtype == expected


def test_blocks_of_another_dtype_than_their_input_are_one_clear_error() -> None:
    component = ffn()
    component.up.data = component.up.data.bfloat16()
    with pytest.raises(UndenseError, match=r"dtypes are mixed.*bfloat16.*float32"):
        component(torch.randn(5, DIM))


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_the_default_dtype_changes_nothing(default: torch.dtype) -> None:
    component, x = ffn(), torch.randn(50, DIM)

    def results() -> list[Tensor]:
        component.zero_grad()
        y = component(x)
        y.sum().backward()
        with torch.no_grad():
            gradients = [p.grad for p in component.parameters() if p.grad is not None]
            return [y.detach(), component(x), *gradients]

    expected = results()
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        got = results()
    finally:
        torch.set_default_dtype(before)
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_score_that_is_no_number_is_seen(sign: float) -> None:
    """Of either sign: what x86 makes of infinity minus infinity is a negative one."""
    component, x = ffn(), torch.randn(5, DIM)
    component.router.last.bias.data[3] = math.copysign(math.nan, sign)  # type: ignore[union-attr,index]
    with torch.no_grad():
        assert component(x).isnan().all()


def test_a_feature_that_does_not_exist_is_one_clear_error() -> None:
    component = SparseMicroRefine(DIM, SparseMicroRefine.Config()).eval()
    component.selected[3] = DIM
    with torch.no_grad(), pytest.raises(UndenseError, match=r"feature 32 does not exist; .* 32"):
        component(torch.randn(5, DIM))


def called(component: nn.Module, x: Tensor) -> str:
    """The operations of the compiled graph."""
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compile(component, fullgraph=True, backend=backend)(x)
    return " ".join(seen)


def test_a_compiled_graph_has_the_one_operation_and_an_exported_program_runs_anywhere() -> None:
    x = torch.randn(5, DIM)
    micro = SparseMicroRefine(DIM, SparseMicroRefine.Config()).eval()
    for component, operation in ((ffn(), "routed_blocks"), (micro, "micro_steps")):
        with torch.no_grad():
            assert operation in called(component, x)
            program = torch.export.export(component, (x,))
            assert operation not in str(program.graph)
            assert torch.allclose(program.module()(x), component(x), atol=1e-5)


def same_for_any_threads(component: BlockTopK, x: Tensor) -> None:
    before, gain, found = (torch.get_num_threads(), torch.tensor([0.7], dtype=x.dtype), [])
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        with torch.no_grad():
            found.append(torch.stack([component(x), component(x, gain)]))
    torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_do_not_change_a_bit(dtype: torch.dtype) -> None:
    """Around the numbers of tokens from which on rows are packed; a smaller FFN would run on one
    thread whatever is asked for."""
    config = BlockTopK.Config(hidden=528, block=16, chosen=8, rank=4, shared=16)
    component = BlockTopK(256, config).eval().to(dtype)
    for tokens in (2, 3, 5, 6, 8, 11, 17, 40, 60):
        same_for_any_threads(component, torch.randn(tokens, 256, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [128, 300])
@pytest.mark.parametrize("shared", [0, 21])
def test_threads_do_not_change_a_bit_where_columns_are_no_whole_share(
    dtype: torch.dtype, dim: int, shared: int
) -> None:
    """Sums are made in pieces of 64 columns: of 128 a third thread has none, of 300 a smaller one.
    More tokens than are taken at a time, too."""
    config = BlockTopK.Config(hidden=528, block=16, chosen=8, shared=shared, bias=True)
    component = BlockTopK(dim, config).eval().to(dtype)
    assert component.bias is not None
    torch.nn.init.normal_(component.bias)
    for tokens in (60, 530):
        same_for_any_threads(component, torch.randn(tokens, dim, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("dim", "rank"), [(256, None), (256, 51), (301, 51)])
def test_threads_do_not_change_a_bit_where_few_tokens_share_neurons(
    dtype: torch.dtype, dim: int, rank: int | None
) -> None:
    """Shares of a matrix that are whole matrix tiles beside one that is not; odd widths."""
    config = BlockTopK.Config(hidden=533, block=16, chosen=8, rank=rank, shared=85, bias=True)
    component = BlockTopK(dim, config).eval().to(dtype)
    for tokens in (1, 4, 8, 20, 32, 33):
        same_for_any_threads(component, torch.randn(tokens, dim, dtype=dtype))
