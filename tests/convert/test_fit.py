import hosts
import pytest
import torch

from undense.contract import config_from_dict
from undense.convert.convert import convert_
from undense.convert.fit import fitted, unfitted
from undense.convert.sites import find_sites
from undense.convert.statistics import collect


def start(model, config, text, **options):
    site = find_sites(model)[0]
    statistics = collect(model, [site], text)[site.name]
    return fitted(site, config_from_dict(config), statistics, **options)


def test_no_ffn_misses_everything_and_the_whole_ffn_nothing(gpt2, text):
    assert start(gpt2, {"component": "none"}, text)[1] == 1.0
    whole = {"component": "dense", "hidden": 192}
    assert start(gpt2, whole, text)[1] < 1e-6


def test_the_error_is_that_of_rows_the_fit_did_not_see(gpt2, text):
    site = find_sites(gpt2)[0]
    statistics = collect(gpt2, [site], text)[site.name]
    config = config_from_dict({"component": "dense", "hidden": 96})
    component, error = fitted(site, config, statistics)
    rows, dense = statistics.inputs, site.dense()

    def relative(x):
        return float((component(x) - dense(x)).norm() / dense(x).norm())

    seen = torch.arange(len(rows)) % 8 != 7
    with torch.no_grad():
        assert error == pytest.approx(relative(rows[~seen]), rel=1e-4)
        assert relative(rows[seen]) < error


def test_the_same_seed_gives_the_same_component_and_leaves_the_callers_alone(gpt2, text):
    config = {"component": "dense", "hidden": 200}  # more neurons than there are: some are random
    state = torch.random.get_rng_state()
    first, again, other = (start(gpt2, config, text, seed=seed)[0] for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert not torch.equal(first.up.weight, other.up.weight)


def test_the_fit_is_in_fp32_and_the_result_as_the_site_is(gpt2, text):
    gpt2.to(torch.bfloat16).train()
    component, _ = start(gpt2, {"component": "tensor_factor", "hidden": 96}, text)
    assert {p.dtype for p in component.parameters()} == {torch.bfloat16}
    assert component.training


def test_without_memory_nothing_is_fitted(gpt2):
    site = find_sites(gpt2.to("meta"))[0]
    component = unfitted(site, config_from_dict({"component": "spectral"}))
    assert all(tensor.is_meta for tensor in component.state_dict().values())


@pytest.mark.parametrize("host", [*hosts.HOSTS])
def test_the_same_dense_ffn_as_a_component_is_the_same_model(host):
    """Copied, not fitted, in every family."""
    model = hosts.tiny(host)
    batch = hosts.inputs(model)
    wanted = hosts.outputs(model, batch)
    gated = find_sites(model)[0].shape.gated
    told = convert_(
        model, "gated_dense-100" if gated else "dense-100", calibration=hosts.calibration(model)
    )
    assert told.flops_after == told.flops_before
    torch.testing.assert_close(hosts.outputs(model, batch), wanted, rtol=0, atol=1e-5)
