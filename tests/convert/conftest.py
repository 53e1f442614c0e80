"""Tiny random models (`hosts.py`), and calibration text for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hosts import VOCABULARY, tiny
from torch import Tensor
from transformers import PreTrainedModel

import undense  # noqa: F401  (registers converted models)

Make = Callable[[str], PreTrainedModel]


@pytest.fixture(scope="session")
def make() -> Make:
    """A tiny model of a family by its name."""
    return tiny


@pytest.fixture
def gpt2() -> PreTrainedModel:
    return tiny("gpt2")


@pytest.fixture
def llama() -> PreTrainedModel:
    return tiny("llama")


@pytest.fixture
def text() -> Tensor:
    """Calibration: 16 sequences of 32 tokens."""
    return torch.randint(VOCABULARY, (16, 32), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def prompt() -> Tensor:
    """Two sequences of 11 tokens to compare logits on."""
    return torch.randint(VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(3))
