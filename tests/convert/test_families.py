import pytest

from undense.convert.families import FAMILIES, family
from undense.errors import UndenseError


def test_a_place_names_its_layer_and_nothing_else():
    assert FAMILIES["gpt2"].layer("h.11.mlp") == 11
    for path in ("h.11.attn", "h.mlp", "xh.1.mlp", "h.1.mlp.c_fc", "h.a.mlp"):
        assert FAMILIES["gpt2"].layer(path) is None


def test_a_converted_type_belongs_to_the_family_that_it_came_from():
    assert family("undense_llama") is FAMILIES["llama"]


def test_an_unknown_type_names_the_supported_and_the_nearest():
    with pytest.raises(UndenseError, match=r"'llamma'.*supported: gpt2, gptj.*Nearest: llama"):
        family("llamma")
