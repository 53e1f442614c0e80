import pickle

import pytest
from transformers import AutoConfig, GPT2Config, LlamaConfig

from undense.convert import configs
from undense.convert.configs import config_class, recorded, recording
from undense.convert.families import FAMILIES
from undense.errors import UndenseError

RECORD = {"h.0.mlp": {"component": "none"}}


def test_each_family_has_a_config_class_of_a_type_of_its_own():
    for name, kind in FAMILIES.items():
        cls = config_class(kind)
        assert cls.model_type == f"undense_{name}"
        assert cls is config_class(kind) is getattr(configs, cls.__name__)
        assert type(AutoConfig.for_model(f"undense_{name}")) is cls


def test_a_record_is_read_back_and_survives_json_and_pickle(tmp_path):
    config = recording(GPT2Config(n_layer=3), RECORD)
    config.save_pretrained(tmp_path)
    for again in (AutoConfig.from_pretrained(tmp_path), pickle.loads(pickle.dumps(config))):
        assert type(again).__name__ == "UndenseGPT2Config"
        assert again.n_layer == 3
        assert recorded(again) == RECORD


def test_no_record_means_the_stock_class():
    config = recording(GPT2Config(), RECORD)
    stock = recording(config, {})
    assert type(stock) is GPT2Config
    assert recorded(stock) == {} and "undense" not in stock.to_dict()
    assert recorded(config) == RECORD  # a copy was changed


def test_the_parallel_plan_speaks_of_no_projection_that_is_gone():
    plan = recording(LlamaConfig(), {"layers.0.mlp": {"component": "none"}}).base_model_tp_plan
    assert "layers.*.self_attn.q_proj" in plan
    assert not any("mlp" in key for key in plan)


@pytest.mark.parametrize("record", [{"format": 3, "ffns": {}}, {"format": 1}, ["h.0.mlp"]])
def test_a_record_of_another_format_is_refused(record):
    config = recording(GPT2Config(), RECORD)
    config.undense = record
    with pytest.raises(UndenseError, match="later version"):
        recorded(config)


def test_names_that_are_no_class_are_attribute_errors():
    for name in ("UndenseNothing", "Undense", "nothing", "UndenseGPT2Model"):
        with pytest.raises(AttributeError):
            getattr(configs, name)
