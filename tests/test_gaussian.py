import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from theory_support import assert_close, generator

from harness.theory.estimate import mean
from harness.theory.flow import ideal_flow, velocity_of
from harness.theory.gaussian import Gaussian, GaussianMixture, two_gaussians

LEVELS = [0.05, 0.5, 3.0, 40.0]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("t", LEVELS)
def test_denoiser_and_variance_against_quadrature(t):
    s, x = 0.7, 1.3
    lo, hi = -8 * s, 8 * s
    centre = [s**2 / (s**2 + t**2) * x]

    def weight(y):
        return stats.norm.pdf(y, 0, s) * stats.norm.pdf(x, y, t)

    z, first, second = (quad(lambda y, k=k: y**k * weight(y), lo, hi, points=centre, epsabs=0, limit=200)[0] for k in range(3))
    law, point = Gaussian(1, s), torch.tensor([[x]], dtype=torch.float64)
    assert law.denoise(point, t).item() == pytest.approx(first / z, rel=1e-6)
    assert law.variance(point, t).item() == pytest.approx(second / z - (first / z) ** 2, rel=1e-4)
    assert law.velocity(point, t).item() == pytest.approx((x - first / z) / t, rel=1e-6)


@pytest.mark.parametrize("sigma_0", [0.0, 0.2])
def test_flow_solves_the_ode(sigma_0):
    law, x = Gaussian(3, 0.5, sigma_0), normal(6, 3)
    lowest = sigma_0 or 1e-4
    assert_close(ideal_flow(law.denoise, 4 * x, 4.0, lowest, 100), law.flow(4 * x, 4.0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("d", [2, 64])
@pytest.mark.parametrize("t", LEVELS)
def test_closed_forms_against_linear_algebra(d, t):
    """All maps are linear in (x*, z), so their covariances give the proxies and the cost."""
    law = Gaussian(d, 0.6, 0.1)
    a = math.sqrt((0.36 + 0.01) / (0.36 + t**2))
    covariance = np.diag([0.36, 1.0])
    x_t, end, noise, data = np.array([1, t]), a * np.array([1, t]), np.array([0, 1]), np.array([1, 0])

    def left_over(target, given):
        c = target @ covariance @ given
        return target @ covariance @ target - c**2 / (given @ covariance @ given)

    assert law.proxy_ic(t) == pytest.approx(d * left_over(noise, x_t))
    assert law.proxy_ic(t) == pytest.approx(d * left_over(data, x_t) / t**2)
    assert law.proxy_gc(t) == pytest.approx(d * left_over(end, end + t * noise) / t**2)
    assert law.cost(t) == pytest.approx(d * (end - noise) @ covariance @ (end - noise))
    step = 1e-4 * t
    assert law.cost_derivative(t) == pytest.approx((law.cost(t + step) - law.cost(t - step)) / (2 * step), rel=1e-5, abs=1e-7)


def test_limits_of_the_cost():
    law = Gaussian(5, 0.5)
    assert law.cost(0.0) == pytest.approx(5 * 1.25)
    assert law.cost(1e6) == pytest.approx(law.optimal_cost()) == pytest.approx(5 * 0.25)


def test_gc_denoiser_is_the_regression_of_the_endpoint():
    law, t = Gaussian(1, 0.5), 0.8
    x, z = law.sample(200_000, generator(1)), normal(200_000, 1, seed=2)
    end = law.flow(x + t * z, t)
    y = end + t * z
    slope = float((end * y).mean() / (y * y).mean())
    assert law.denoise_gc(torch.ones(1, 1), t).item() == pytest.approx(slope, abs=4e-3)


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_integrand_of_the_discrepancy_against_simulation(alpha):
    law, t, slope, rate = Gaussian(4, 0.5), 0.7, 0.8, -0.4
    x, z = law.sample(100_000, generator(3)), normal(100_000, 4, seed=4)
    x_t = x + t * z
    ct = (rate * x_t + slope * z).norm(dim=1) ** alpha
    cd = (rate * x_t + slope * law.velocity(x_t, t)).norm(dim=1) ** alpha
    assert mean(ct - cd).agrees(law.discrepancy_integrand(slope, rate, t, alpha))


def mixture():
    return GaussianMixture(
        torch.tensor([[-1.0], [0.5], [2.0]], dtype=torch.float64), 0.3, torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    )


@pytest.mark.parametrize("t", [0.1, 0.8, 10.0])
@pytest.mark.parametrize("x", [-0.4, 1.1])
def test_mixture_against_quadrature(t, x):
    law = mixture()

    def density(y):
        return sum(w * stats.norm.pdf(y, m, 0.3) for w, m in zip([0.2, 0.5, 0.3], [-1.0, 0.5, 2.0], strict=True))

    def integrand(y, k):
        return y**k * density(y) * stats.norm.pdf(x, y, t)

    moments = [quad(integrand, -4, 5, args=(k,), points=[-1, 0.5, x, 2], limit=400)[0] for k in range(3)]
    point = torch.tensor([[x]], dtype=torch.float64)
    expected = moments[1] / moments[0]
    assert law.denoise(point, t).item() == pytest.approx(expected, rel=1e-6)
    assert law.velocity(point, t).item() == pytest.approx((x - expected) / t, rel=1e-5)
    assert law.variance(point, t).item() == pytest.approx(moments[2] / moments[0] - expected**2, rel=1e-5)
    assert law.log_density(point, t).exp().item() == pytest.approx(moments[0], rel=1e-6)
    assert law.log_density(point).exp().item() == pytest.approx(density(x), rel=1e-9)


def test_mixture_variance_is_the_trace_of_the_jacobian():
    law = GaussianMixture(normal(4, 3), 0.4)
    x, t = normal(5, 3, seed=1), 0.9
    jacobian = torch.func.vmap(torch.func.jacfwd(lambda y: law.denoise(y[None], t)[0]))(x)
    assert_close(law.variance(x, t), t**2 * jacobian.diagonal(dim1=1, dim2=2).sum(1))


def test_a_mixture_of_one_is_a_gaussian():
    mixture, law = GaussianMixture(torch.zeros(1, 3, dtype=torch.float64), 0.5), Gaussian(3, 0.5)
    x = normal(6, 3)
    assert_close(mixture.denoise(x, 2.0), law.denoise(x, 2.0))
    assert_close(mixture.velocity(x, 2.0), velocity_of(law.denoise)(x, torch.full((6,), 2.0)))
    assert_close(mixture.log_density(x), law.log_density(x))
    assert_close(mixture.flow(x, 2.0, 1e-3, 100), law.flow(x, 2.0), rtol=1e-3, atol=1e-4)


def test_samples_have_the_law():
    draws = mixture().sample(20_000, generator())[:, 0].numpy()

    def cdf(y):
        return sum(w * stats.norm.cdf(y, m, 0.3) for w, m in zip([0.2, 0.5, 0.3], [-1.0, 0.5, 2.0], strict=True))

    assert stats.kstest(draws, cdf).pvalue > 1e-3
    toy = two_gaussians().sample(1000, generator())
    assert toy[:, 1].abs().sub(0.5).abs().max() < 0.06 and toy[:, 0].abs().max() < 0.06
    assert stats.binomtest(int((toy[:, 1] > 0).sum()), 1000).pvalue > 1e-3
