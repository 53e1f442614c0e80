import pytest

from undense.convert.targets import select
from undense.errors import UndenseError

LAYERS = {f"transformer.h.{i}.mlp": i for i in range(12)}


def chosen(targets=None, exclude=None):
    return [LAYERS[name] for name in select(LAYERS, targets, exclude)]


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        (None, range(12)),
        ("mlp", range(12)),
        (["mlp"], range(12)),
        ("transformer.h.3.mlp", [3]),
        ("h.3.mlp", [3]),
        ("1.mlp", [1]),  # not 11: whole components, as in PEFT
        (["0.mlp", "11.mlp"], [0, 11]),
        (r".*\.h\.[0-2]\.mlp", [0, 1, 2]),
        (r"re:.*\.(3|10)\.mlp", [3, 10]),
        ("h.[01].mlp", [0, 1]),
        ("*.1?.mlp", [10, 11]),
        ("4", [4]),
        (4, [4]),
        ("2-5", [2, 3, 4, 5]),
        ([0, "10-11"], [0, 10, 11]),
    ],
)
def test_each_form_of_target_means_its_layers(targets, layers):
    assert chosen(targets) == list(layers)


def test_exclude_takes_away_and_the_order_of_the_layers_stays():
    assert chosen(exclude="1-10") == [0, 11]
    assert chosen(["11", "0-3"], exclude=["2", r"re:.*\.0\.mlp"]) == [1, 3, 11]


@pytest.mark.parametrize("role", ["targets", "exclude"])
def test_one_target_without_a_match_is_an_error_with_near_misses(role):
    targets = {role: ["0.mlp", "h.1.mpl"]}
    with pytest.raises(UndenseError, match=r"'h\.1\.mpl' matches no FFN; did you mean h\.1\.mlp"):
        select(LAYERS, **targets)


def test_the_error_lists_the_sites_there_are():
    with pytest.raises(UndenseError, match=r"transformer\.h\.0\.mlp.*….*transformer\.h\.11\.mlp"):
        chosen("12-20")


def test_excluding_everything_is_an_error():
    with pytest.raises(UndenseError, match="leaves no FFN"):
        chosen("0-3", exclude="mlp")


def test_an_empty_list_is_an_error():
    with pytest.raises(UndenseError, match="empty"):
        chosen([])


def test_a_broken_regular_expression_is_an_error_only_where_it_must_be_one():
    with pytest.raises(UndenseError, match="no regular expression"):
        chosen("re:*.mlp")
    assert chosen("*.mlp") == list(range(12))
