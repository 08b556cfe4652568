"""The linear network, and what the harness's own trainer makes of it, against the closed form of joint learning."""

from __future__ import annotations

import pytest
import torch
from theory_support import assert_refused, generator

from harness.config.parts import Network
from harness.config.run import varied
from harness.core.networks import build
from harness.data import datasets
from harness.theory import gradient_variance, joint_learning
from harness.theory.studies.linear_models import exact_gradients, linear_run, trained
from harness.training.model import create, last_levels


def test_any_coefficient_per_level_and_the_identity_at_the_lowest():
    run = linear_run(0.5, 10)
    f, levels, x = create(run).online, last_levels(run).float(), torch.randn(11, 2)
    with torch.no_grad():
        f.model.scale.copy_(torch.linspace(-2, 3, 11))
        once, twice = f(x, levels), f(2 * x, levels)
    torch.testing.assert_close(twice, 2 * once)
    torch.testing.assert_close(once[0], x[0])
    slopes = once / x
    torch.testing.assert_close(slopes[:, 0], slopes[:, 1])
    assert len(slopes[:, 0].unique()) == 11


def test_what_a_linear_network_does_not_fit_is_refused():
    run = linear_run(0.5, 10)
    for changes in ({"objective": {"n1": 20}}, {"network": {"dropout": (0.1,)}}):
        with pytest.raises(ValueError, match="linear network"):
            varied(run, **changes)
    network = Network(kind="linear", dropout=(0.0,))
    with assert_refused(where="network.kind", found="(1, 8, 8)"):
        build(network, (1, 8, 8), levels=last_levels(run))
    with assert_refused(where="network.kind", found="no grid"):
        build(network, (2,))


def test_gaussian_data_have_the_stated_spread():
    rows = datasets.load("gaussian").rows
    assert rows.shape == (4096, 2)
    assert float(rows.std()) == pytest.approx(0.5, abs=4 * 0.5 / (2 * 8192) ** 0.5) and float(rows.mean().abs()) < 4 * 0.5 / 8192**0.5


@pytest.mark.parametrize(("mu", "points"), [(0.0, 11), (0.5, 5), (1.0, 11)])
def test_the_harness_trains_it_to_the_closed_form(mu, points):
    """Slopes within 1.5 % (optimisation with a constant rate); those of mu = 0, 0.5 and 1 differ by more than 10 % at the last level."""
    model = trained(linear_run(mu, points - 1))
    levels = last_levels(model.run).numpy()
    exact = joint_learning.learned_slopes(levels, model.s, mu)
    assert model.slopes().numpy() == pytest.approx(exact, rel=0.015)
    assert model.spread() == pytest.approx(joint_learning.generated_spread(levels, model.s, mu), rel=0.015)
    for other in {0.0, 0.5, 1.0} - {mu}:
        assert abs(joint_learning.generated_spread(levels, model.s, other) / model.spread() - 1) > 0.1


@pytest.mark.parametrize("mu", [0.0, 0.5, 1.0])
def test_the_measured_gradients_have_the_moments_of_the_closed_form(mu):
    """At the exact slopes, with Gaussian data of 4,096 rows, whose fourth moment is 5 % off that of the law."""
    run, data = linear_run(mu, 4), datasets.load("gaussian")
    s, f, levels, sd = float(data.rows.double().square().mean().sqrt()), create(run).ema, last_levels(run), run.noise.sigma_data
    slopes = torch.tensor(joint_learning.learned_slopes(levels.numpy(), s, mu))
    offset = levels - run.noise.sigma_min
    scale = (slopes - 1 / (1 + (offset / sd) ** 2)) * (sd**2 + levels**2) / (sd * offset).clamp(min=1e-9)
    f.model.scale.copy_(scale)
    measured = gradient_variance.measure(run, f, data, generator(3), 200, 256)
    exact = exact_gradients(run, s, data.dim, mu)
    for k in range(3):
        estimate, truth = measured.estimate(lambda v, k=k: v[..., k]), float(exact.values[k])
        assert abs(estimate.value - truth) < 4 * estimate.se + 0.05 * truth, (k, str(estimate), truth)
    assert exact.values[2] > 0
