import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from theory_support import assert_close, assert_refused, generator

from harness.theory.discrepancy import Distance, Times, derivatives, discrepancy, excess, integrand, theorem_1
from harness.theory.estimate import mean
from harness.theory.gaussian import Gaussian, GaussianMixture
from harness.theory.gradients import gradient_limits
from harness.theory.oracle import Oracle, draw_rows
from harness.theory.proxy import noise_like

SQUARED, HUBER, NORM = Distance("squared"), Distance("pseudo-huber", 0.5), Distance("norm")


def pairs_from(law):
    def draw(n, g):
        x = law.sample(n, g)
        return x, noise_like(x, g)

    return draw


def linear(x, t):
    """f(x, t) = x/(1 + t), for which R has a closed form on Gaussian data."""
    return x / (1 + t[:, None])


def truth(law, alpha):
    return quad(lambda t: law.discrepancy_integrand(1 / (1 + t), -1 / (1 + t) ** 2, t, alpha), 0, 4.0)[0]


@pytest.mark.parametrize("d", [2, 64])
@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_discrepancy_of_a_linear_function(d, alpha):
    law = Gaussian(d, 0.5)
    estimate = discrepancy(linear, law.velocity, pairs_from(law), Times(4.0), generator(), alpha, batches=32, rows=64)
    assert estimate.agrees(truth(law, alpha)) and estimate.se < 0.05 * estimate.value


def test_draws_are_positive_and_have_the_mean_of_the_plain_ones():
    law = GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=torch.float64), 0.3)
    x, z = pairs_from(law)(40_000, generator())
    t = torch.full((40_000,), 0.6, dtype=torch.float64)

    def f(y, s):
        return torch.tanh(y) / (1 + s[:, None])

    cd, shift = derivatives(f, law.velocity, x, z, t)
    for alpha in (1.0, 2.0, 3.0):
        ours = integrand(f, law.velocity, x, z, t, alpha)
        plain = (cd + shift).norm(dim=1) ** alpha - cd.norm(dim=1) ** alpha
        assert (ours >= -1e-12).all()
        assert mean(plain - ours).agrees(0.0)


def test_derivatives_against_finite_differences():
    law = Gaussian(3, 0.7)
    x, z = pairs_from(law)(6, generator())
    t = torch.linspace(0.5, 3, 6, dtype=torch.float64)

    def f(y, s):
        return torch.sin(y) * s[:, None]

    cd, shift = derivatives(f, law.velocity, x, z, t)
    h, at = 1e-6, x + t[:, None] * z
    ahead = f(x + (t + h)[:, None] * z, t + h) - f(x + (t - h)[:, None] * z, t - h)
    assert_close(cd + shift, ahead / (2 * h), rtol=1e-6, atol=1e-7)
    v = law.velocity(at, t)
    assert_close(cd, (f(at + h * v, t + h) - f(at - h * v, t - h)) / (2 * h), rtol=1e-6, atol=1e-7)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-8, 10), st.sampled_from([1.0, 1.5, 2.0, 4.0]))
def test_excess_is_a_convex_gap(seed, size, alpha):
    g = generator(seed)
    a, b = torch.randn(5, 3, generator=g, dtype=torch.float64), size * torch.randn(5, 3, generator=g, dtype=torch.float64)
    gap = excess(a, b, alpha)
    before, after = a.norm(dim=1), (a + b).norm(dim=1)
    plain = after**alpha - before**alpha - alpha * before ** (alpha - 2) * (a * b).sum(1)
    assert (gap >= -1e-9).all()
    assert_close(gap, plain, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("distance", [SQUARED, HUBER, NORM])
def test_distances(distance):
    def phi(v):
        square = v.square().sum(1)
        return square if distance.kind == "squared" else (square + distance.c**2).sqrt() - distance.c

    a, b = (torch.randn(20, 4, generator=generator(i), dtype=torch.float64) for i in (1, 2))
    assert_close(distance.increment(a, b), phi(a + b) - phi(a))
    leaf = a.clone().requires_grad_()
    assert_close(distance.gradient(a), torch.autograd.grad(phi(leaf).sum(), leaf)[0])
    tiny = 1e-4 * a
    assert_close(phi(tiny), distance.constant * tiny.norm(dim=1) ** distance.alpha, rtol=1e-6, atol=1e-12)
    zero = torch.zeros(2, 4)
    assert torch.equal(distance.gradient(zero), zero) and torch.equal(distance.increment(zero, zero), torch.zeros(2))


@pytest.mark.parametrize("t_min", [0.0, 0.5])
def test_times_have_their_density(t_min):
    times = Times(4.0, t_min)
    t = times.draw(5000, generator())
    assert t.min() >= t_min and t.max() <= 4.0
    assert float((1 / times.density(t)).mean()) == pytest.approx(4.0 - t_min, rel=1e-3)
    middle = torch.tensor([1.0], dtype=torch.float64)
    assert float(times.mass(middle)) == pytest.approx(float((t < 1.0).double().mean()), abs=1e-3)


@pytest.mark.parametrize("distance", [SQUARED, HUBER, NORM])
@pytest.mark.parametrize("d", [2, 64])
def test_theorem_1(distance, d):
    law = Gaussian(d, 0.5)
    rows = theorem_1(linear, law.velocity, pairs_from(law), Times(4.0), distance, [8, 64, 4096], generator(1), batches=16, rows=64)
    last = rows[-1]
    expected = distance.constant * 4.0 ** (distance.alpha - 1) * truth(law, distance.alpha)
    assert last.n == 4096 and last.ratio.se < 0.01 and abs(last.ratio.value - 1) < 0.03
    assert last.limit.agrees(expected) and last.difference.agrees(expected)
    assert abs(rows[0].ratio.value - 1) > abs(last.ratio.value - 1)


def plain_gap(law, distance, n, T, draws):
    """N^alpha (L_CT - L_CD) directly from (4) and (6), without variance reduction: index, data and noise are drawn independently."""
    g = generator(5)
    x, z = pairs_from(law)(draws, g)
    i = torch.randint(0, n, (draws,), generator=g)
    low, high = i * T / n, (i + 1) * T / n
    ahead = x + high[:, None] * z
    behind = ahead + (low - high)[:, None] * law.velocity(ahead, high)

    def loss(teacher):
        gap = (linear(ahead, high) - linear(teacher, low)).square().sum(1)
        return gap if distance.kind == "squared" else (gap + distance.c**2).sqrt() - distance.c

    return mean(n**distance.alpha * (loss(x + low[:, None] * z) - loss(behind)))


@pytest.mark.parametrize("distance", [SQUARED, HUBER, NORM])
def test_difference_of_the_losses_against_its_definition(distance):
    law = Gaussian(2, 0.5)
    plain = plain_gap(law, distance, 8, 4.0, 300_000)
    estimate = theorem_1(linear, law.velocity, pairs_from(law), Times(4.0), distance, [8], generator(2), batches=32, rows=512)[0].difference
    assert abs(estimate.value - plain.value) < 3 * np.hypot(estimate.se, plain.se)


def test_theorem_1_for_a_network_on_finite_data():
    from harness.config.parts import Network
    from harness.core.consistency import Preconditioned
    from harness.core.networks import build

    data = torch.randn(60, 2, generator=generator(), dtype=torch.float64)
    oracle = Oracle(data, torch.float64)
    net = build(Network(kind="mlp", width=16, depth=2, dropout=(0.0,)), (2,), generator=generator(1))
    with torch.no_grad():
        # the untrained output layer is almost zero, which would leave f = c_skip x
        net.outputs.weight.normal_(generator=generator(2))
    f = Preconditioned(net).double().requires_grad_(False).eval()

    def draw(n, g):
        x = oracle.data(draw_rows(60, n, g))
        return x, noise_like(x, g)

    for distance in (SQUARED, NORM):
        rows = theorem_1(f, oracle.velocity, draw, Times(10.0, 0.002), distance, [4096], generator(3), batches=12, rows=64)
        assert rows[0].ratio.value == pytest.approx(1, abs=0.03) and rows[0].limit.value > 0


def test_the_same_generator_gives_the_same_draws():
    law = Gaussian(2, 0.5)
    args = (linear, law.velocity, pairs_from(law), Times(4.0), SQUARED, [16])
    first, again, other = (theorem_1(*args, generator(seed), batches=4, rows=8) for seed in (7, 7, 8))
    assert first == again and first != other


def curved(parameters, x, t):
    return parameters["a"] * linear(x, t) + parameters["b"] * torch.tanh(x) * t[:, None] / (1 + t[:, None])


@pytest.mark.parametrize("distance", [SQUARED, NORM])
def test_limits_of_the_gradients(distance):
    law = Gaussian(2, 0.5)
    parameters = {"a": torch.tensor(1.0, dtype=torch.float64), "b": torch.tensor(0.3, dtype=torch.float64)}
    coarse, fine = gradient_limits(
        curved, parameters, law.velocity, pairs_from(law), Times(4.0), distance, [8, 128], generator(), batches=32, rows=256
    )
    for name in ("ct", "cd"):
        # both converge: the squared distance from the limit falls by (128/8)^2 = 256 for an error ~ 1/N
        assert getattr(fine, name).value < getattr(coarse, name).value / 100
        assert getattr(fine, name).value < 1e-3
    if distance is SQUARED:
        assert abs(fine.limit_gap.value) < 4 * fine.limit_gap.se and fine.limit_gap.value < 1e-3
    else:
        assert fine.limit_gap.value > 10 * fine.limit_gap.se


def test_limit_of_the_gradient_against_quadrature():
    """For f = a x/(1 + t) and the squared distance the limits are 2 L^0 int E<d, df/da> dt; the derivative of R's own terms checks d."""
    law = Gaussian(3, 0.5)
    parameters = {"a": torch.tensor(0.7, dtype=torch.float64)}

    def f(p, x, t):
        return p["a"] * linear(x, t)

    rows = gradient_limits(f, parameters, law.velocity, pairs_from(law), Times(4.0), SQUARED, [8, 4096], generator(), batches=32, rows=512)

    # at a finite N, grad L_CD from its definition: f(behind) and f(ahead) are linear in x_{i+1} ~ N(0, (s^2 + t^2) I)
    def gradient(n):
        h, total = 4.0 / n, 0.0
        for i in range(n):
            low, high = i * h, (i + 1) * h
            student, teacher = 0.7 / (1 + high), 0.7 / (1 + low) * (1 - h * high / (0.25 + high**2))
            total += 2 * (student - teacher) / (1 + high) * 3 * (0.25 + high**2) / n
        return n * total

    limit = gradient(200_000)
    relative = ((gradient(8) - limit) / limit) ** 2
    assert rows[0].cd.value == pytest.approx(relative, rel=0.15)
    assert rows[1].cd.value < 1e-4 * relative


def test_bad_input():
    with assert_refused(where="t_min, T", found="81.0"):
        Times(81.0)
    with assert_refused(where="t_min, T", found="2.0, 1.0"):
        Times(1.0, t_min=2.0)
