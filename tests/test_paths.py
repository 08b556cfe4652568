import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons
from theory_support import pairs

from harness.theory.gaussian import Gaussian, two_gaussians
from harness.theory.oracle import Oracle
from harness.theory.paths import pair_mean, passing, sample_paths, straightness


def test_gaussian_paths_are_formulas():
    law = Gaussian(2, 0.5)
    x, z = pairs(law, 6)
    paths = sample_paths(law.denoise, x, z, 5.0, 100)
    t = paths.times[:, None, None]
    assert paths.times[0] == 5.0 and paths.times[-1] == pytest.approx(0.002) and (np.diff(paths.times) < 0).all()
    x, z = x.numpy(), z.numpy()
    np.testing.assert_allclose(paths.ic, x + t * z)
    a = np.sqrt((0.25 + 0.002**2) / (0.25 + t**2))
    np.testing.assert_allclose(paths.gc, a * (x + t * z) + t * z, atol=5e-3)
    np.testing.assert_allclose(paths.ode, np.sqrt((0.25 + t**2) / (0.25 + 25)) * (x + 5 * z), atol=5e-3)
    np.testing.assert_array_equal(paths.ode[0], paths.ic[0])


def test_a_trained_predictor_takes_the_place_of_the_flow():
    law = Gaussian(2, 0.5)
    x, z = pairs(law, 3)
    paths = sample_paths(law.denoise, x, z, 2.0, 5, lambda y, t: torch.zeros_like(y))
    np.testing.assert_allclose(paths.gc, paths.times[:, None, None] * z.numpy())


@pytest.mark.parametrize("name", ["gaussians", "moons"])
def test_gc_paths_pass_each_other_less_than_ic_paths(name):
    if name == "gaussians":
        law = two_gaussians()
        x, z = pairs(law, 48)
    else:
        law = Oracle(torch.tensor(make_moons(150, noise=0.05, random_state=0)[0]), torch.float64)
        x = law.data()[:48]
        z = torch.randn(48, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    paths = sample_paths(law.denoise, x, z, 5.0, 20)
    assert paths.ode.shape == paths.ic.shape == paths.gc.shape == (21, 48, 2)
    assert pair_mean(passing(paths.ode)).value < 0.02
    assert np.array_equal(paths.ic[0], paths.ode[0]) and not np.array_equal(paths.gc[0], paths.ode[0])
    # GC's endpoints at the highest level are where the ODE ends, whatever data point IC drew
    np.testing.assert_allclose(paths.gc[0] - 5 * z.numpy(), paths.ode[-1], atol=0.2)
    np.testing.assert_allclose(paths.gc_line, paths.gc[0] - 5 * z.numpy() + paths.times[:, None, None] * z.numpy(), atol=1e-9)
    assert pair_mean(passing(paths.gc_line)).value < 0.5 * pair_mean(passing(paths.ic)).value
    # prediction at each level comes back to IC's own data point at the lowest
    np.testing.assert_allclose(paths.gc[-1], paths.ic[-1] + 0.002 * z.numpy(), atol=1e-6)


def test_straightness_and_passing():
    line = np.linspace(0, 1, 5)[:, None, None] * np.array([[3.0, 4.0]])
    corner = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])[:, None]
    np.testing.assert_allclose(straightness(line), [1.0])
    np.testing.assert_allclose(straightness(corner), [np.sqrt(2) / 2])
    swap = np.stack([np.array([[t, 0.0], [1 - t, 0.1], [3.0, 0.0]]) for t in np.linspace(0, 1, 9)])
    assert pair_mean(passing(swap)).value == pytest.approx(1 / 3)
