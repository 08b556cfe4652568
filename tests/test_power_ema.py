"""Power-function averages against closed forms and numerical integrals, and post-hoc averages against ones that were tracked."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from harness.core.power_ema import (
    LONGEST,
    Profile,
    combined,
    gamma_of,
    inner_product,
    mismatch,
    power_decay,
    reconstruction_weights,
    sigma_rel_of,
)


def density(profile, tau):
    return (profile.gamma + 1) * tau**profile.gamma / profile.step ** (profile.gamma + 1) if tau <= profile.step else 0.0


def tracked(values, gamma):
    """The average after each step, by its recursion."""
    average, averages = np.zeros_like(values[0]), []
    for step, value in enumerate(values, 1):
        decay = power_decay(step, gamma)
        average = decay * average + (1 - decay) * value
        averages.append(average)
    return averages


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94), (LONGEST, 0.0)])
def test_the_papers_exponents(sigma_rel, gamma):
    """0.05 and 0.10 are the lengths of the two averages that EDM2 tracks."""
    assert gamma_of(sigma_rel) == pytest.approx(gamma, abs=0.006)
    assert sigma_rel_of(gamma_of(sigma_rel)) == pytest.approx(sigma_rel, rel=1e-9)


@given(st.floats(0.001, LONGEST))
def test_length_and_exponent_are_inverse(sigma_rel):
    assert sigma_rel_of(gamma_of(sigma_rel)) == pytest.approx(sigma_rel, rel=1e-6)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.3, math.nan])
def test_no_average_has_this_length(sigma_rel):
    with pytest.raises(ValueError, match="sigma_rel must lie in"):
        gamma_of(sigma_rel)


@pytest.mark.parametrize("gamma", [0.0, 1.83, 6.94, 16.97])
def test_the_length_is_the_standard_deviation_of_the_profile(gamma):
    p = Profile(1.0, gamma)
    mean, square = (quad(lambda tau, k=k: tau**k * density(p, tau), 0, 1)[0] for k in (1, 2))
    assert sigma_rel_of(gamma) == pytest.approx(math.sqrt(square - mean**2), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 6.94, 16.97])
def test_the_recursion_gives_the_profile(gamma):
    """Step tau gets weight (tau/t)^(g+1) - ((tau-1)/t)^(g+1), the integral of p over that step; with gamma = 0 it is the plain mean."""
    steps = 200
    of_each = np.stack(tracked(list(np.eye(steps)), gamma))
    t, tau = np.arange(1, steps + 1)[:, None], np.arange(1, steps + 1)[None]
    expected = np.where(tau <= t, (tau / t) ** (gamma + 1) - ((tau - 1) / t) ** (gamma + 1), 0.0)
    np.testing.assert_allclose(of_each, expected, atol=1e-12)
    assert power_decay(1, gamma) == 0 and tracked([np.float64(3.0)] * 9, gamma)[-1] == pytest.approx(3)


profiles = st.builds(Profile, st.floats(1, 1000), st.floats(0, 20))


@given(profiles, profiles)
def test_inner_products_are_integrals(a, b):
    """Over the whole profiles with the substitution tau = end * u, split where the integrand has its mass."""
    end = min(a.step, b.step)
    integral = quad(lambda u: end * density(a, end * u) * density(b, end * u), 0, 1, epsabs=0, epsrel=1e-9)[0]
    assert inner_product(a, b) == pytest.approx(integral, rel=1e-5)
    assert inner_product(a, b) == pytest.approx(inner_product(b, a), rel=1e-9)


def test_a_stored_average_reconstructs_itself_and_duplicates_share():
    stored = [Profile(step, gamma) for step in (10, 20, 30) for gamma in (6.94, 16.97)]
    for index, wanted in enumerate(stored):
        weights = reconstruction_weights(stored, wanted)
        assert torch.allclose(weights, torch.eye(6, dtype=torch.float64)[index], atol=1e-6)
        assert mismatch(stored, weights, wanted) < 1e-6
    twice = reconstruction_weights([stored[0], stored[0]], stored[0])
    torch.testing.assert_close(twice, torch.full((2,), 0.5, dtype=torch.float64))


def test_two_averages_by_hand():
    """The normal equations of two profiles, solved by Cramer's rule."""
    a, b, wanted = Profile(10, 2.0), Profile(20, 5.0), Profile(20, 3.0)
    aa, ab, bb, aw, bw = (inner_product(*pair) for pair in ((a, a), (a, b), (b, b), (a, wanted), (b, wanted)))
    expected = [(aw * bb - ab * bw) / (aa * bb - ab**2), (aa * bw - ab * aw) / (aa * bb - ab**2)]
    weights = reconstruction_weights([a, b], wanted)
    assert weights.tolist() == pytest.approx(expected, rel=1e-9)
    nearby = [
        mismatch([a, b], weights + torch.tensor(shift, dtype=torch.float64), wanted) for shift in ((0.01, 0), (0, 0.01), (-0.01, 0.01))
    ]
    assert all(mismatch([a, b], weights, wanted) < other for other in nearby)


@pytest.mark.parametrize("sigma_rel", [0.03, 0.07, 0.15, 0.25])
def test_a_post_hoc_average_is_the_tracked_one(sigma_rel):
    """A random walk with drift, snapshots of sigma_rel = 0.05 and 0.10 at every 32nd of the training."""
    random, steps = np.random.default_rng(0), 3200
    walk = list(np.cumsum(random.normal(0.02, 1, (steps, 50)), axis=0))
    stored, states = [], []
    for length in (0.05, 0.10):
        averages = tracked(walk, gamma_of(length))
        for step in range(100, steps + 1, 100):
            stored.append(Profile(step, gamma_of(length)))
            states.append({"w": torch.from_numpy(averages[step - 1])})
    wanted = Profile(steps, gamma_of(sigma_rel))
    weights = reconstruction_weights(stored, wanted)
    exact = tracked(walk, gamma_of(sigma_rel))[-1]
    error = np.linalg.norm(combined(states, weights)["w"].numpy() - exact) / np.linalg.norm(exact - walk[-1])
    assert error < 0.02 and mismatch(stored, weights, wanted) < 0.1
    assert float(weights.sum()) == pytest.approx(1, abs=0.01)  # hardly any snapshot sees the first steps


def test_an_average_needs_a_snapshot_from_its_step_or_later():
    with pytest.raises(ValueError, match="at step 20 needs a stored one"):
        reconstruction_weights([Profile(10, 2.0)], Profile(20, 2.0))
    with pytest.raises(ValueError, match="needs a stored one"):
        reconstruction_weights([], Profile(20, 2.0))


def test_combined_keeps_dtypes_and_sums_in_float64():
    states = [
        {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(1, dtype=torch.float16)},
        {"a": torch.tensor([3.0, -2.0]), "b": torch.tensor(2.0)},
    ]
    result = combined(states, torch.tensor([0.25, 0.5], dtype=torch.float64))
    assert result["a"].tolist() == [1.75, -0.5] and result["b"].item() == 1.25 and result["b"].dtype == torch.float16
