import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.special import logsumexp, softmax
from sklearn.datasets import load_digits
from theory_support import assert_close, assert_refused, generator

from harness.theory import oracle as module
from harness.theory.flow import ideal_flow, karras_levels
from harness.theory.oracle import Oracle, available_memory, draw_rows
from harness.theory.rate import relative_rate


def digits():
    return torch.tensor(load_digits().data) / 8 - 1


def brute(data, x, t):
    """D*, the posterior's variance and log sum by double sums over differences, in NumPy's float64."""
    data, x = np.asarray(data, float), np.asarray(x, float)
    squares = np.stack([((row - data) ** 2).sum(1) for row in x])
    logits = -squares / (2 * np.asarray(t, float).reshape(-1, 1) ** 2)
    w = softmax(logits, axis=1)
    mean = w @ data
    variance = np.array([wi @ ((data - m) ** 2).sum(1) for wi, m in zip(w, mean, strict=True)])
    return mean, variance, logsumexp(logits, axis=1)


def noisy(data, t, rows, seed=0):
    """Noised data points, and midpoints of two data points, where the posterior is hardest to compute."""
    g = generator(seed)
    x = data[draw_rows(len(data), rows, g)]
    x = x + t * torch.randn(x.shape, generator=g, dtype=x.dtype)
    half = rows // 4
    x[:half] = (data[:half] + data[half : 2 * half]) / 2
    return x


@pytest.mark.parametrize("t", [0.002, 0.01, 0.1, 0.3, 0.5, 1.0, 5.0, 80.0])
def test_denoiser_of_digits_against_double_sums(t):
    data = digits()
    x = noisy(data, t, 40).float()
    mean, variance, log_sum = brute(data, x, [t])
    single = Oracle(data).denoise(x, t)
    assert single.dtype == torch.float32 and np.abs(single.numpy() - mean).max() <= 1e-5
    posterior = Oracle(data, torch.float64).posterior(x.double(), t)
    assert np.abs(posterior.mean.numpy() - mean).max() < 1e-6
    np.testing.assert_allclose(posterior.variance, variance, rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(posterior.log_sum, log_sum, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("t", [0.5, 4.0, 8.0, 30.0])
def test_denoiser_of_images_in_float32_at_d_3072(t):
    coarse = torch.rand(1500, 3, 4, 4, generator=generator())
    images = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear").mul(255).to(torch.uint8)
    points = (images.double() / 127.5 - 1).flatten(1)
    x = noisy(points, t, 16).float()
    mean, variance, _ = brute(points, x, [t])
    posterior = Oracle(images).posterior(x.reshape(-1, 3, 32, 32), t)
    assert posterior.mean.shape == (16, 3, 32, 32)
    assert np.abs(posterior.mean.flatten(1).numpy() - mean).max() <= 1e-5
    np.testing.assert_allclose(posterior.variance, variance, rtol=2e-4, atol=1e-6)


def test_a_level_for_each_row():
    data = torch.randn(50, 3, generator=generator(), dtype=torch.float64)
    x, t = data[:20] * 1.5, torch.logspace(-2, 1, 20, dtype=torch.float64)
    np.testing.assert_allclose(Oracle(data, torch.float64).denoise(x, t), brute(data, x, t)[0], atol=1e-9)


def test_tiles_and_blocks_change_nothing(monkeypatch):
    data = torch.randn(333, 5, generator=generator())
    x = data[:100] + torch.randn(100, 5, generator=generator(1))
    whole = Oracle(data, torch.float64).posterior(x.double(), 0.7)
    product = Oracle(data, torch.float64).covariance_product(x.double(), 0.7, x.double())
    monkeypatch.setattr(module, "_BLOCK", 17)
    monkeypatch.setattr(module.Oracle, "tiles", lambda self, rows: (7, 96))
    pieces = Oracle(data, torch.float64)
    for name in ("mean", "variance", "peak", "tail", "log_sum"):
        assert_close(getattr(pieces.posterior(x.double(), 0.7), name), getattr(whole, name))
    assert_close(pieces.covariance_product(x.double(), 0.7, x.double()), product)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.floats(0.01, 50), st.floats(-5, 5), st.integers(0, 10**6))
def test_denoiser_stays_in_the_hull_and_moves_with_the_data(n, d, t, shift, seed):
    data = torch.randn(n, d, generator=generator(seed), dtype=torch.float64)
    x = 3 * torch.randn(9, d, generator=generator(seed + 1), dtype=torch.float64)
    out = Oracle(data, torch.float64).denoise(x, t)
    assert (out <= data.amax(0) + 1e-9).all() and (out >= data.amin(0) - 1e-9).all()
    assert_close(Oracle(data + shift, torch.float64).denoise(x + shift, t), out + shift, rtol=1e-6, atol=1e-6)


def test_weights_are_the_posterior():
    data = torch.randn(70, 4, generator=generator(), dtype=torch.float64)
    x = data[:9] + 0.5
    w = Oracle(data, torch.float64).weights(x, 0.8)
    squares = ((x.numpy()[:, None] - data.numpy()[None]) ** 2).sum(2)
    np.testing.assert_allclose(w, softmax(-squares / (2 * 0.8**2), axis=1), atol=1e-12)
    assert torch.equal(w.argmax(1), Oracle(data).posterior(x, 0.8).peak)


def test_tail_keeps_its_digits():
    oracle = Oracle(torch.tensor([[0.0], [1.0]]), torch.float64)
    posterior = oracle.posterior(torch.tensor([[0.0]], dtype=torch.float64), 0.15)
    assert float(posterior.tail) == pytest.approx(np.exp(-1 / (2 * 0.15**2)), rel=1e-6, abs=0)


def dense(data):
    return lambda x, t: torch.softmax(-(x[:, None] - data[None]).square().sum(2) / (2 * t[:, None] ** 2), 1) @ data


@pytest.mark.parametrize("t", [0.1, 0.6, 5.0])
def test_derivatives_are_those_of_the_dense_softmax(t):
    g = generator()
    data, x, dx = (torch.randn(n, 5, generator=g, dtype=torch.float64) for n in (80, 12, 12))
    levels, dt = torch.full((12,), t, dtype=torch.float64), torch.randn(12, generator=g, dtype=torch.float64)
    x = data[:12] + t * x
    oracle = Oracle(data, torch.float64)
    expected = torch.func.jvp(dense(data), (x, levels), (dx, dt))[1]
    assert_close(torch.func.jvp(oracle.denoise, (x, levels), (dx, dt))[1], expected, rtol=1e-9, atol=1e-10)
    single = Oracle(data).covariance_product(x.float(), levels.float(), dx.float(), dt.float())
    assert_close(single.double(), expected, rtol=1e-4, atol=1e-4)
    inputs = x.clone().requires_grad_(), levels.clone().requires_grad_()
    ours = torch.autograd.grad((oracle.denoise(*inputs) * dx).sum(), inputs)
    for a, b in zip(ours, torch.autograd.grad((dense(data)(*inputs) * dx).sum(), inputs), strict=True):
        assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_flow_can_be_differentiated():
    data = torch.randn(30, 3, generator=generator(), dtype=torch.float64)
    x, dx = 2 * data[:6], torch.ones(6, 3, dtype=torch.float64)
    oracle = Oracle(data, torch.float64)
    ours = torch.func.jvp(lambda y: oracle.flow(y, 2.0, 0.3, 8), (x,), (dx,))[1]
    step = 1e-5
    numeric = (oracle.flow(x + step * dx, 2.0, 0.3, 8) - oracle.flow(x - step * dx, 2.0, 0.3, 8)) / (2 * step)
    assert_close(ours, numeric, rtol=1e-5, atol=1e-6)


def test_flow_to_one_point_is_a_straight_line():
    point = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    x = torch.randn(5, 3, generator=generator(), dtype=torch.float64) * 10
    out = Oracle(point, torch.float64).flow(x, 10.0, 0.002, 5)
    assert_close(out, point + 0.002 / 10 * (x - point))


def test_flow_against_scipy():
    data = torch.randn(12, 2, generator=generator(), dtype=torch.float64)
    oracle = Oracle(data, torch.float64)
    start = torch.tensor([[3.0, -1.0], [-4.0, 2.0], [0.5, 6.0]], dtype=torch.float64)

    def right(t, x):
        return ((x.reshape(-1, 2) - brute(data, x.reshape(-1, 2), [t])[0]) / t).ravel()

    exact = solve_ivp(right, (5.0, 0.1), start.numpy().ravel(), rtol=1e-9, atol=1e-9).y[:, -1].reshape(-1, 2)
    np.testing.assert_allclose(oracle.flow(start, 5.0, 0.1, 160), exact, atol=5e-4)
    # second order: half the step gives a quarter of the error
    fine, coarse = (np.abs(oracle.flow(start, 5.0, 0.1, steps).numpy() - exact).max() for steps in (80, 40))
    assert 3 < coarse / fine < 5


def test_rows_at_the_lowest_level_stay():
    x = torch.randn(4, 2, generator=generator())
    assert torch.equal(ideal_flow(Oracle(x).denoise, x, torch.tensor([0.002, 0.001, 0.002, 0.002])), x)
    levels = karras_levels(torch.tensor([80.0, 1.0]), 0.002, 10)
    assert (levels.diff(dim=0) < 0).all() and levels[0].tolist() == [80.0, 1.0] and (levels[-1] == 0.002).all()


def test_no_autocast_and_no_tf32_inside():
    data = torch.randn(64, 16, generator=generator())
    x = data[:8] * 1.1
    plain = Oracle(data).denoise(x, 1.0)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(Oracle(data).denoise(x, 1.0), plain)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_data_that_are_not_finite():
    with assert_refused(found="nan"):
        Oracle(torch.tensor([[0.0, float("nan")]]))


def test_data_too_large_for_the_memory():
    # expand returns a view of one number, so the test itself needs no memory
    huge = torch.ones(1, 1).expand(available_memory() // 4, 3)
    with assert_refused(found="GiB needed"):
        Oracle(huge)


def test_no_denoising_without_noise():
    with assert_refused(where="t", found=0.0):
        Oracle(torch.ones(3, 2)).denoise(torch.ones(2, 2), torch.tensor([1.0, 0.0]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_agrees_with_double_sums():
    data = digits()
    x = noisy(data, 0.5, 64).float()
    oracle = Oracle(data.cuda())
    posterior = oracle.posterior(x.cuda(), 0.5)
    mean, variance, _ = brute(data, x, [0.5])
    assert np.abs(posterior.mean.cpu().numpy() - mean).max() <= 1e-5
    np.testing.assert_allclose(posterior.variance.cpu(), variance, rtol=1e-3, atol=1e-8)
    # without the midpoints, where rounding decides which point the flow reaches
    end = oracle.flow(x[16:].cuda(), 0.5, steps=10).cpu()
    assert_close(end, Oracle(data).flow(x[16:], 0.5, steps=10), atol=1e-2)
    assert relative_rate(oracle, rows=512) > 0


def test_fashion_size_stays_under_4_gigabytes():
    code = """
import resource, torch
torch.set_num_threads(1)
from harness.theory.oracle import Oracle
images = torch.randint(0, 256, (60000, 1, 32, 32), dtype=torch.uint8)
oracle = Oracle(images)
out = oracle.posterior(oracle.data(torch.arange(32)) + 20 * torch.randn(32, 1, 32, 32), 20.0)
assert out.mean.shape == (32, 1, 32, 32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) * 1024 < 4 * 2**30


def test_rate_is_most_of_the_matrix_product():
    images = torch.randint(0, 256, (2048, 3072), dtype=torch.uint8, generator=generator())
    oracle = Oracle(images)
    # another process may slow one measurement, but not all five
    assert max(relative_rate(oracle, rows=512, t=20.0, repeats=2) for _ in range(5)) >= 0.6


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 100))
def test_rows_are_drawn_evenly(total, rows):
    counts = torch.bincount(draw_rows(total, rows, generator(rows)), minlength=total)
    assert counts.sum() == rows and counts.max() - counts.min() <= 1
