import json
from pathlib import Path

import pytest

from undense.errors import UndenseError
from undense.train.recipe import PretrainRecipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def test_a_recipe_survives_json():
    recipe = PretrainRecipe(host="llama", steps=7, dtype="bf16", data="some/folder")
    assert PretrainRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_the_recipe_of_the_tiny_model_is_valid():
    recipe = PretrainRecipe.load(RECIPES / "tiny-gpt2.json")
    assert (recipe.host, recipe.hidden_size, recipe.layers) == ("gpt2", 192, 4)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"host": "bert"}, "host='bert'; choose one of gpt2, llama"),
        ({"dtype": "fp8"}, "dtype='fp8'"),
        ({"stored": "int4"}, "stored='int4'"),
        ({"layers": 0}, "layers=0"),
        ({"steps": -5}, "steps=-5"),
        ({"eval_limit": 0}, "eval_limit=0"),
        ({"context": 1}, "context=1"),
        ({"hidden_size": 10, "heads": 3}, "divisible by heads=3"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"warmup": 1.5}, "warmup=1.5"),
        ({"layers": "four"}, "layers='four'; expected int"),
        ({"batch": 2.5}, "batch=2.5; expected int"),
        ({"layer": 4}, "unknown field layer"),
        ({"reverts": -1}, "reverts=-1"),
        ({"tokenizer": "words"}, "tokenizer='words'; choose one of bpe, bytes"),
        ({"guide": 1.5, "ffn": "none"}, "guide=1.5"),
        ({"ffns_from": "x", "ffn": "ultra-25", "scales": {"*": 1.0}}, "leave them out"),
        ({"save_ffns_every": 0, "ffn": "ultra-25"}, "save_ffns_every=0"),
        ({"divergence": 0.0}, "divergence=0.0"),
        ({"rates": {"*": -1.0}}, r"rates: '\*': -1.0"),
        ({"scales": {"*": "two"}}, r"scales: '\*': 'two'"),
    ],
)
def test_a_field_that_makes_no_sense_is_named(values, says):
    with pytest.raises(UndenseError, match=says):
        PretrainRecipe.from_dict(values)


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read"), ("{steps: 3}", "no valid JSON"), ("[]", "object")],
)
def test_a_file_that_is_no_recipe_is_one_clear_error(tmp_path, content, says):
    path = tmp_path / "recipe.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UndenseError, match=says):
        PretrainRecipe.load(path)
