import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.schedules import noise_levels
from harness.theory.joint_learning import generated_spread, gradient_variance, learned_slopes, true_slopes

S = 0.5


def karras(points: int) -> np.ndarray:
    return noise_levels(points, 0.002, 80.0, 7.0).numpy()


@pytest.mark.parametrize(
    ("points", "mu", "spread"),
    [(11, 0, 0.753), (11, 0.5, 0.899), (11, 1, 1.040), (1281, 0, 0.998), (1281, 0.5, 1.127), (1281, 1, 1.181)],
)
def test_spread_of_what_is_generated(points, mu, spread):
    assert generated_spread(karras(points), S, mu) == pytest.approx(spread, abs=6e-4)


def test_ic_learns_the_true_slopes_with_an_error_of_order_1_over_n():
    levels = [karras(points) for points in (161, 641, 2561)]
    gaps = [np.abs(learned_slopes(sigma, S, 0) / true_slopes(sigma, S) - 1).max() for sigma in levels]
    assert gaps[2] < 2e-3 and gaps[0] / gaps[1] == pytest.approx(4, rel=0.02) and gaps[1] / gaps[2] == pytest.approx(4, rel=0.02)


def population(gc: bool, mu: float, i: int, levels: np.ndarray) -> tuple[float, float]:
    """Mean and variance of one coordinate's gradient over IC's or GC's pairs, by Gauss-Hermite quadrature, exact for these polynomials."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    weights = np.outer(weights, weights) / weights.sum() ** 2
    x, z = S * nodes[:, None], nodes[None]
    slopes = learned_slopes(levels, S, mu)
    if gc:
        x = slopes[i] * (x + levels[i] * z)
    u, w = x + levels[i + 1] * z, x + levels[i] * z
    gradient = 2 * u * (slopes[i + 1] * u - slopes[i] * w)
    mean = (weights * gradient).sum()
    return mean, (weights * (gradient - mean) ** 2).sum()


@settings(max_examples=300)
@given(st.floats(0, 1), st.integers(0, 9), st.integers(1, 64))
def test_slopes_and_gradient_against_quadrature(mu, i, d):
    levels = karras(11)
    (mean_ic, var_ic), (mean_gc, var_gc) = (population(gc, mu, i, levels) for gc in (False, True))
    scale = (var_ic + var_gc) ** 0.5
    assert (1 - mu) * mean_ic + mu * mean_gc == pytest.approx(0, abs=1e-12 * scale), "a_{i+1} does not minimise the loss of its level"
    parts = gradient_variance(levels, S, mu, d)
    assert parts.within_ic[i] == pytest.approx((1 - mu) * d * var_ic, rel=1e-7)
    assert parts.within_gc[i] == pytest.approx(mu * d * var_gc, rel=1e-7)
    assert parts.between[i] == pytest.approx(mu * (1 - mu) * (d * (mean_ic - mean_gc)) ** 2, rel=1e-6, abs=1e-14 * d**2 * scale**2)


def test_the_gradients_variance_over_mu():
    """GC alone has less variance than IC alone; in between the two populations disagree, and the variance passes IC's."""
    total = {mu: gradient_variance(karras(161), S, mu).total[40:120].sum() for mu in (0, 0.5, 1)}
    assert total[1] < 0.5 * total[0] < total[0] < total[0.5]
