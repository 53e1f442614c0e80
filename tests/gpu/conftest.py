"""Tests that need a GPU; elsewhere they are skipped. What other folders test with is at hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).resolve().parent.parent
sys.path += [str(TESTS / name) for name in ("kernels", "mixers", "models", "convert")]


def pytest_itemcollected(item: pytest.Item) -> None:
    if Path(item.path).parent != Path(__file__).parent:
        return  # a hook of this folder hears of all items
    if not torch.cuda.is_available():
        item.add_marker(pytest.mark.skip(reason="torch sees no GPU"))
    # versions of torch and Triton differ in what they warn of: it is right or wrong all the same
    item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """fp32 products without TF32, in torch's matrix products and in ours."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    convolutions = torch.backends.cudnn.allow_tf32  # True by default, other than that of products
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = convolutions
