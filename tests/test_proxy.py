import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from theory_support import generator, pairs

from harness.core.couplings import batch_ot, generator_augmented, independent
from harness.theory.estimate import log_slope, mean
from harness.theory.gaussian import Gaussian, GaussianMixture
from harness.theory.oracle import Oracle, draw_rows
from harness.theory.proxy import noise_like, proxy, proxy_ic
from harness.theory.proxy_gc import basin, proxy_gc, proxy_gc_smooth

LEVELS = [0.1, 1.0, 20.0]


@pytest.mark.parametrize(("t", "value", "error"), [(1.0, 4.810, 0.014), (5.0, 0.7085, 0.0006), (20.0, 0.04677, 0.00003)])
def test_digits_under_ic(t, value, error):
    data = torch.tensor(load_digits().data) / 8 - 1
    estimate = proxy_ic(Oracle(data, torch.float64), data, t, generator(), draws=3, all_data=True)
    assert estimate.se <= 3 * error and estimate.n == 3 * 1797
    assert abs(estimate.value - value) <= 3 * np.hypot(estimate.se, error)


@pytest.mark.parametrize("d", [2, 64])
@pytest.mark.parametrize("t", LEVELS)
def test_gaussian_under_ic(d, t):
    law = Gaussian(d, 0.5)
    x, z = pairs(law, 4000)
    assert proxy_ic(law, x, t, generator(1)).value == pytest.approx(law.proxy_ic(t))
    assert proxy(independent, law.denoise, x, z, t, generator(1)).agrees(law.proxy_ic(t))
    # a finite sample is a data set too, and at large t the oracle's value for it is close to that of the law
    sample = Oracle(x, torch.float64)
    if t == 20.0:
        assert proxy_ic(sample, x, t, generator(1), 1, all_data=True).value == pytest.approx(law.proxy_ic(t), rel=0.1)


@pytest.mark.parametrize("d", [2, 64])
@pytest.mark.parametrize("t", LEVELS)
def test_gaussian_under_gc(d, t):
    law = Gaussian(d, 0.5)
    x, z = pairs(law, 4000, seed=2)
    gc = generator_augmented(1.0)
    estimate = proxy(gc, lambda x, s: law.denoise_gc(x, t), x, z, t, generator(3), f=law.flow)
    assert estimate.agrees(law.proxy_gc(t)) and estimate.se < 0.05 * estimate.value


@pytest.mark.parametrize(("d", "levels"), [(2, (0.3, 1.0, 20.0)), (64, (1.0, 20.0))])
def test_gaussian_under_gc_without_a_denoiser(d, levels):
    law = Gaussian(d, 0.5)
    for t in levels:
        estimate = proxy_gc_smooth(law, 300, t, generator(4), 256)
        assert estimate.value.agrees(law.proxy_gc(t)) and estimate.draws > 50
        assert estimate.upper.value > law.proxy_gc(t) - 3 * estimate.upper.se


def test_mixture_under_ic_and_gc():
    law = GaussianMixture(torch.tensor([[0.0, -0.5], [0.0, 0.5]], dtype=torch.float64), 0.2)
    x, z = pairs(law, 20_000)
    exact = proxy_ic(law, x, 0.5, generator(1))
    plain = proxy(independent, law.denoise, x, z, 0.5, generator(1))
    assert abs(exact.value - plain.value) < 3 * np.hypot(exact.se, plain.se) and exact.se < plain.se
    # any function of xtil_t is a denoiser, so it can only be worse than the exact posterior
    gc = proxy_gc_smooth(law, 300, 0.5, generator(2), 64)
    cubic = regression_error(law, 0.5)
    assert gc.value.value < cubic.value + 3 * np.hypot(gc.value.se, cubic.se)
    assert gc.value.value > 0.6 * cubic.value
    assert gc.value.value < exact.value


def regression_error(law, t):
    """E|xhat - m(xtil)|^2/t^2 for the best polynomial m of degree 7, fitted on one half of the pairs and evaluated on the other."""
    x, z = pairs(law, 20_000, seed=9)
    end = law.flow(x + t * z, t, steps=20)
    y = (end + t * z).numpy()
    features = np.stack([y[:, 0] ** i * y[:, 1] ** j for i in range(8) for j in range(8 - i)], 1)
    fit, _, _, _ = np.linalg.lstsq(features[::2], end[::2].numpy(), rcond=None)
    return mean(torch.tensor(((end[1::2].numpy() - features[1::2] @ fit) ** 2).sum(1) / t**2))


def enumerated(oracle, y, t):
    """The posterior variance of GC's endpoint given y, by all N^2 pairs (k, J)."""
    points, n = oracle.data(), len(oracle)
    k, j = torch.arange(n).repeat_interleave(n), torch.arange(n).repeat(n)
    starts = (points[j] - points[k])[None] + y[:, None]
    hits = (basin(oracle, starts.flatten(0, 1), t).reshape(len(y), -1) == k).reshape(len(y), n, n).sum(2)
    w = torch.softmax(-torch.cdist(y, points).square() / (2 * t**2), 1) * hits
    w = w / w.sum(1, keepdim=True)
    squares = torch.cdist(w @ points, points).square()
    return mean((w * squares).sum(1) / t**2)


@pytest.mark.parametrize(("d", "t"), [(2, 0.3), (2, 3.0), (6, 0.7)])
def test_finite_data_under_gc_against_enumeration(d, t):
    data = 0.5 * torch.randn(15, d, generator=generator(d), dtype=torch.float64)
    oracle = Oracle(data, torch.float64)
    x = oracle.data(draw_rows(15, 150, generator(1)))
    z = noise_like(x, generator(2))
    k = basin(oracle, x + t * z, t)
    truth = enumerated(oracle, data[k] + t * z, t)
    estimate = proxy_gc(oracle, draw_rows(15, 300, generator(3)), t, generator(4), proposals=96)
    assert abs(estimate.value.value - truth.value) < 3 * np.hypot(estimate.value.se, truth.se)
    assert estimate.upper.value > truth.value - 3 * np.hypot(estimate.upper.se, truth.se)
    assert estimate.empty < 15
    ic = proxy_ic(oracle, data, t, generator(5), draws=20, all_data=True)
    assert estimate.value.value < ic.value


def test_basin_is_where_the_flow_ends():
    data = torch.randn(30, 3, generator=generator(), dtype=torch.float64)
    oracle = Oracle(data, torch.float64)
    x = 4 * torch.randn(200, 3, generator=generator(1), dtype=torch.float64)
    end = oracle.flow(x, 4.0)
    nearest = torch.cdist(end, data).argmin(1)
    assert torch.equal(basin(oracle, x, 4.0), nearest)
    wanted = torch.where(torch.arange(200) < 100, nearest, (nearest + 1) % 30)
    assert torch.equal(basin(oracle, x, 4.0, wanted=wanted) == wanted, torch.arange(200) < 100)


def test_slopes_of_theorem_2():
    """The slopes are -2 for IC and -4 for GC on Gaussian data, and as different on the mixture."""
    law, t = Gaussian(2, 0.5), [10.0, 20.0, 40.0, 80.0]
    x, _ = pairs(law, 500)
    ic = log_slope(t, [proxy_ic(law, x, level, generator()) for level in t])
    gc = log_slope(t, [proxy_gc_smooth(law, 300, level, generator(i), 256).value for i, level in enumerate(t)])
    assert ic.value == pytest.approx(-2, abs=0.01) and abs(gc.value + 4) < 2 * gc.se + 0.05
    mixed = GaussianMixture(torch.tensor([[0.0, -0.5], [0.0, 0.5]], dtype=torch.float64), 0.3)
    x, _ = pairs(mixed, 2000)
    ic = log_slope(t, [proxy_ic(mixed, x, level, generator()) for level in t])
    gc = log_slope(t, [proxy_gc_smooth(mixed, 300, level, generator(i), 64).value for i, level in enumerate(t)])
    assert ic.value == pytest.approx(-2, abs=0.02) and gc.value + 2 * gc.se < -3


def test_the_proxy_of_batch_ot_is_a_mean_over_its_pairs():
    law, t = Gaussian(2, 0.5), 1.0
    x, z = pairs(law, 2048)
    estimate = proxy(batch_ot(), law.denoise, x, z, t, generator(), batch=128, dependent=True)
    assert estimate.n == 16 and estimate.se > 0
    # the error of this denoiser (that of IC, which is inexact here) over the assigned rows, computed directly
    ends = [batch_ot()(a, b, None, None, generator()) for a, b in zip(x.split(128), z.split(128), strict=True)]
    rows = torch.cat([a - law.denoise(a + t * b, t) for a, b in ends])
    assert estimate.value == pytest.approx(float(rows.square().sum(1).mean()) / t**2)


def test_an_inexact_denoiser_adds_its_distance_from_the_exact_one():
    law, t = Gaussian(3, 0.5), 2.0
    x, z = pairs(law, 20_000)

    def wrong(y, s):
        return 1.3 * law.denoise(y, s)

    bias = 0.09 * 3 * (0.25 / (0.25 + t**2)) ** 2 * (0.25 + t**2) / t**2
    estimate = proxy(independent, wrong, x, z, t, generator())
    assert abs(estimate.value - bias - law.proxy_ic(t)) < 3 * estimate.se


def test_the_predictor_is_asked_at_the_level_itself():
    x, z = torch.ones(4, 2), torch.full((4, 2), 2.0)
    estimate = proxy(generator_augmented(1.0), lambda y, s: 0 * y, x, z, 3.0, generator(), f=lambda y, s: y * s[:, None])
    assert estimate.value == pytest.approx(2 * 21.0**2 / 3.0**2)
