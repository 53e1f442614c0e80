import json

from rich.console import Console

from undense.contract import config_from_dict
from undense.convert.conversion import describe
from undense.convert.convert import plan
from undense.convert.sites import find_sites


def test_figures_are_exact_by_hand(gpt2):
    site = find_sites(gpt2)[0]
    told = describe(site, config_from_dict({"component": "dense", "hidden": 96}))
    # two products, two biases, tanh-GELU at 9 a neuron
    assert told.cost_before.forward == 2 * (2 * 48 * 192) + 192 + 48 + 9 * 192
    assert told.cost_after.forward == 2 * (2 * 48 * 96) + 96 + 48 + 9 * 96
    assert told.parameters_before == 2 * 48 * 192 + 192 + 48
    assert told.parameters_after == 2 * 48 * 96 + 96 + 48
    assert told.buffers_after == 0


def test_stored_numbers_that_are_not_trained_are_listed_apart(llama):
    told = describe(find_sites(llama)[0], config_from_dict({"component": "spectral", "k_freq": 3}))
    assert told.parameters_after == 2 * 6
    assert told.buffers_after == 2 * 6 * 48 + 3 + 6  # two bases, frequencies, partners


def test_totals_are_sums_and_the_models_parameters_follow(gpt2):
    told = plan(gpt2, "none")
    assert told.flops_after == told.parameters_after == 0
    assert told.flops_before == sum(site.cost_before.forward for site in told.sites)
    assert told.model_parameters_before == gpt2.num_parameters()
    assert told.model_parameters_after == gpt2.num_parameters() - told.parameters_before


def test_a_conversion_becomes_json(llama):
    told = plan(llama, "ultra-25", targets="0")
    values = json.loads(json.dumps(told.to_dict()))
    assert values["flops_after"] == told.flops_after
    (site,) = values["sites"]
    assert config_from_dict(site["config"]) == told.sites[0].config
    assert site["relative_error"] is None


def test_the_table_fits_eighty_columns(llama):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(plan(llama, "ultra-25").table())
    text = capture.get()
    assert "model.layers.1.mlp" in text and "ultra" in text and "total" in text
    assert "…" not in text
    assert "not fitted" in text
