"""The fixed random expansion: from the seed alone, additions only."""

from __future__ import annotations

import pytest
import torch

from undense.errors import UndenseError
from undense.ops.sparse_signs import SparseSigns, signed_places

WORD = (1 << 64) - 1


def philox(counter: int, key: int) -> list[int]:
    """One block of Philox 4x64 with ten rounds, from its definition (Salmon et al., 2011)."""
    x = [counter, 0, 0, 0]
    k = [key, 0]
    for _ in range(10):
        first = x[0] * 0xD2E7470EE14C6C93
        second = x[2] * 0xCA5A826395121157
        x = [
            (second >> 64) ^ x[1] ^ k[0],
            second & WORD,
            (first >> 64) ^ x[3] ^ k[1],
            first & WORD,
        ]
        k = [(k[0] + 0x9E3779B97F4A7C15) & WORD, (k[1] + 0xBB67AE8584CAA73B) & WORD]
    return x


def test_places_are_those_of_the_generator_written_out() -> None:
    fan_in, fan_out, per_row, seed = 23, 8, 3, 5
    stream = [word for block in range(1, 7) for word in philox(block, seed)]
    edges = [k * fan_in // per_row for k in range(per_row + 1)]
    expected = []
    for row in range(fan_out):
        for k in range(per_row):
            word = stream[row * per_row + k]
            feature = edges[k] + (word >> 33) % (edges[k + 1] - edges[k])
            expected.append(feature + fan_in * (word & 1))
    assert signed_places(fan_in, fan_out, per_row, seed).flatten().tolist() == expected


def dense(signs: SparseSigns) -> torch.Tensor:
    matrix = torch.zeros(signs.fan_out, 2 * signs.fan_in)
    matrix.scatter_add_(1, signs.places.long(), torch.ones(signs.places.shape))
    return matrix[:, : signs.fan_in] - matrix[:, signs.fan_in :]


def test_it_is_a_matrix_of_signs_with_so_many_a_row() -> None:
    signs = SparseSigns(24, 64, per_row=3, seed=1)
    matrix = dense(signs)
    assert (matrix.abs().sum(1) == 3).all() and (matrix.abs() <= 1).all()
    x = torch.randn(2, 5, 24)
    assert torch.allclose(signs(x), x @ matrix.T, atol=1e-5)


def test_signs_are_balanced_and_features_used_alike() -> None:
    matrix = dense(SparseSigns(32, 4096, per_row=4, seed=0))
    assert abs(matrix.sum()) < 5 * (4 * 4096) ** 0.5
    uses = matrix.abs().sum(0)
    assert (uses - 512).abs().max() < 6 * 512**0.5


def test_nothing_is_saved_and_any_dtype_or_draw_of_torch_gives_the_same() -> None:
    torch.manual_seed(1)
    first = SparseSigns(16, 32, per_row=2, seed=3)
    torch.manual_seed(2)
    assert not first.state_dict()
    for other in (SparseSigns(16, 32, per_row=2, seed=3), first.bfloat16(), first.double()):
        assert torch.equal(other.places, signed_places(16, 32, 2, 3))
    assert not torch.equal(signed_places(16, 32, 2, 4), signed_places(16, 32, 2, 3))


def test_memory_without_content_is_filled_again() -> None:
    with torch.device("meta"):
        signs = SparseSigns(16, 32, per_row=2, seed=3)
    signs.to_empty(device="cpu")
    signs.places.fill_(0)
    signs.rebuild()
    assert torch.equal(signs.places, signed_places(16, 32, 2, 3))


def test_more_features_than_there_are_is_refused() -> None:
    with pytest.raises(UndenseError, match="9 features a row must be between 1 and 8"):
        SparseSigns(8, 8, per_row=9, seed=0)
