"""Triton's kernels on the hardware that they are for: right, repeatable, compiled and captured."""

from __future__ import annotations

import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from pair_operands import operands, products
from torch import Tensor
from torch.library import opcheck

from undense.contract import DenseShape, FFNComponent, build
from undense.ffn.presets import resolve
from undense.kernels.grouped import grouped, on_gpu
from undense.kernels.pairs import ReferencePairs
from undense.measure.ffn_arms import quiet

DIM = 128
# fp32: sums of up to 4096 products, one by one or cut off at each step of a matrix unit; the others
# round operands and results.
OFF = {torch.float32: 5e-5, torch.bfloat16: 1.2e-2, torch.float16: 2e-3}


def assert_close(one: Tensor, other: Tensor, off: float) -> None:
    scale = other.abs().max().item()
    torch.testing.assert_close(one.double(), other.double(), rtol=off, atol=off * scale)


def block_topk() -> FFNComponent:
    shape = DenseShape(dim=DIM, hidden=4 * DIM)
    return build(DIM, quiet(resolve("block_topk-25", shape))).cuda()


def test_a_gpu_takes_triton() -> None:
    chosen, _, matrix, _ = operands(4, 5, 2, 8, 16, torch.float32)
    assert on_gpu().path == "triton", on_gpu()
    assert type(grouped(chosen.cuda(), matrix.cuda())).__name__ == "TritonPairs"


def test_the_products_are_those_in_fp64_at_any_shape() -> None:
    """All that the interpreter is held to as well, in a process of its own."""
    file = Path(__file__).parent.parent / "kernels" / "triton_products.py"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "default", str(file)]
    done = subprocess.run(
        command,
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


# As many blocks, as wide, and as many of them chosen as in presets of a quarter at these widths.
@pytest.mark.parametrize("dtype", OFF)
@pytest.mark.parametrize("tokens", [1, 16, 1024, 8192])
@pytest.mark.parametrize(("dim", "blocks", "width", "k"), [(768, 96, 32, 18), (4096, 128, 128, 24)])
def test_at_the_sizes_of_models_the_products_are_those_in_fp64_and_the_same_at_every_call(
    dim: int, blocks: int, width: int, k: int, tokens: int, dtype: torch.dtype
) -> None:
    with torch.device("cuda"):
        chosen, rows, matrix, bias = operands(tokens, blocks, k, width, dim, dtype)
        got = products(grouped(chosen, matrix), rows, matrix, bias)
        again = products(grouped(chosen, matrix), rows, matrix, bias)
        exact = ReferencePairs(chosen, blocks)
        wanted = products(exact, rows.double(), matrix.double(), bias.double())
    kinds = (torch.float32, dtype, dtype)
    for one, other, same, stored in zip(got, wanted, again, kinds, strict=True):
        assert one.dtype == stored
        assert torch.equal(one, same)
        assert_close(one, other, OFF[stored])


def test_fp32_products_are_as_exact_as_torch_is_set_to_be() -> None:
    with torch.device("cuda"):
        chosen, rows, matrix, bias = operands(256, 16, 4, 64, 512, torch.float32)
        exact = ReferencePairs(chosen, 16)
        wanted = products(exact, rows.double(), matrix.double(), bias.double())
        errors = {}
        for setting in ("highest", "high"):
            torch.set_float32_matmul_precision(setting)
            got = products(grouped(chosen, matrix), rows, matrix, bias)
            errors[setting] = [
                ((one - other).abs().max() / other.abs().max()).item()
                for one, other in zip(got, wanted, strict=True)
            ]
    assert max(errors["highest"]) < 5e-6, errors
    # TF32 keeps 10 bits of an operand, which must show: else the faster products are not taken
    assert all(1e-5 < error < 5e-3 for error in errors["high"]), errors


@pytest.mark.parametrize("number", [-1, 5])
def test_a_block_that_does_not_exist_stops_the_program(number: int) -> None:
    """In a process of its own: after an assertion on the device it can use the GPU no more."""
    program = (
        "import torch; from undense.kernels.triton_pairs import TritonPairs;"
        f"TritonPairs(torch.tensor([[0, 1], [2, {number}]], device='cuda'), 5);"
        "torch.cuda.synchronize(); print('went on')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and "went on" not in done.stdout
    assert "device-side assert" in done.stderr, done.stderr


def test_the_operation_keeps_its_contract_with_the_compiler() -> None:
    with torch.device("cuda"):
        chosen, x, up, bias = operands(6, 7, 3, 10, 24, torch.float32)
        down, gates = torch.randn(7, 5, 24), torch.rand(6, 3)
        leaves = [t.requires_grad_() for t in (x, up, bias, down, gates)]
    x, up, bias, down, gates = leaves
    given = (x, up, bias, down, chosen, gates, "silu")
    opcheck(torch.ops.undense.chosen_blocks.default, given, atol=1e-5, rtol=1e-5)


def step(ffn: FFNComponent, x: Tensor, received: Tensor) -> list[Tensor]:
    y = ffn(x)
    return [y, *torch.autograd.grad(y, [x, *ffn.parameters()], received)]


def test_a_training_step_is_that_of_plain_pytorch_in_fp64() -> None:
    ffn, x = block_topk(), torch.randn(3, 70, DIM, device="cuda", requires_grad=True)
    received = torch.randn_like(x)
    exact = deepcopy(ffn).double()
    wanted = step(exact, x.detach().double().requires_grad_(), received.double())
    for one, other in zip(step(ffn, x, received), wanted, strict=True):
        assert_close(one, other, 1e-4)


def test_compiled_as_one_graph_it_is_the_same_function() -> None:
    torch.compiler.reset()
    ffn, x = block_topk(), torch.randn(2, 33, DIM, device="cuda", requires_grad=True)
    received = torch.randn_like(x)
    compiled = torch.compile(ffn, fullgraph=True)
    y = compiled(x)
    got = [y, *torch.autograd.grad(y, [x, *ffn.parameters()], received)]
    for one, other in zip(got, step(ffn, x, received), strict=True):
        assert_close(one, other, 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_captured_step_replays_on_new_numbers(dtype: torch.dtype) -> None:
    ffn = block_topk().to(dtype)
    x = torch.randn(2, 33, DIM, device="cuda", dtype=dtype, requires_grad=True)
    received = torch.randn_like(x)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(ffn, x, received)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = step(ffn, x, received)
    for _ in range(2):
        with torch.no_grad():
            x.copy_(torch.randn_like(x))  # other blocks are chosen
        graph.replay()
        wanted = step(ffn, x, received)
        for one, other in zip(held, wanted, strict=True):
            # torch adds up the gradient of the first bias atomically: another order, other bits
            assert_close(one, other, 1e-5 if dtype == torch.float32 else 1e-2)
