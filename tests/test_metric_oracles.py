"""FID, KID and IS against torch-fidelity and torchmetrics, which are given the same features and logits; nothing is downloaded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from harness.metrics.quality import frechet, inception_score, kid, moments

pytestmark = pytest.mark.filterwarnings("ignore:Metric .* will save all extracted features:UserWarning", "ignore:std:UserWarning")
SHAPES = [(900, 700, 12), (400, 500, 64), (60, 50, 80)]
"""(n, m, d): usual, many dimensions, and covariances without full rank (n <= d)."""


class Given(torch.nn.Module):
    """The network that takes features for images and returns them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_features = dim

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def features(n: int, m: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two correlated samples of different laws, float32, not centred, as the features of a network are."""
    rng = np.random.default_rng(d)
    mix = rng.normal(size=(d, d)) / d**0.5
    x, y = rng.normal(size=(n, d)) @ mix + 0.5, 1.1 * rng.normal(size=(m, d)) @ mix + 0.7
    return torch.from_numpy(x).float(), torch.from_numpy(y).float()


def logits(n: int, classes: int) -> torch.Tensor:
    """Rows sorted by class, each fairly certain of its class, float32."""
    rng = np.random.default_rng(classes)
    x = rng.normal(size=(n, classes))
    x[np.arange(n), np.sort(rng.integers(0, classes, n))] += 4
    return torch.from_numpy(x).float()


@pytest.mark.parametrize("shape", SHAPES)
def test_fid(shape):
    """All three take the unbiased covariances. They differ in tr (S1 S2)^(1/2): eigenvalues of S1 S2, here of the symmetric product."""
    x, y = features(*shape)
    value = frechet(*moments(x), *moments(y))
    other = FrechetInceptionDistance(feature=Given(x.shape[1]), normalize=False).set_dtype(torch.float64)
    other.update(x.double(), real=True)
    other.update(y.double(), real=False)
    fidelity = fid_statistics_to_metric(*(fid_features_to_statistics(side.double()) for side in (x, y)), verbose=False)
    tolerance = 1e-6 if shape[0] > shape[2] else 1e-4  # they take roots of eigenvalues that are 0 but for rounding
    assert fidelity["frechet_inception_distance"] == pytest.approx(value, rel=tolerance)
    assert other.compute().item() == pytest.approx(value, rel=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_kid_of_complete_samples(shape):
    """Equal subset sizes: all rows of both, so that no choice of rows differs. The others refuse a size above min(n, m); ours clips it."""
    n = min(shape[:2])
    x, y = features(n, n, shape[2])
    value = kid(x, y, subsets=2, generator=torch.Generator().manual_seed(0))
    other = KernelInceptionDistance(feature=Given(shape[2]), subsets=2, subset_size=n).set_dtype(torch.float64)
    other.update(x.double(), real=True)
    other.update(y.double(), real=False)
    fidelity = kid_features_to_metric(x.double(), y.double(), kid_subsets=2, kid_subset_size=n, verbose=False)
    assert fidelity["kernel_inception_distance_mean"] == pytest.approx(value, rel=1e-9)
    assert other.compute()[0].item() == pytest.approx(value, rel=1e-9)


def test_kid_of_random_subsets():
    """Each package draws its own subsets: the means agree within the standard errors of the subsets."""
    x, y = features(900, 700, 12)
    value = kid(x, y, subsets=100, size=100, generator=torch.Generator().manual_seed(0))
    fidelity = kid_features_to_metric(x.double(), y.double(), kid_subsets=400, kid_subset_size=100, verbose=False)
    spread = fidelity["kernel_inception_distance_std"]
    assert abs(value - fidelity["kernel_inception_distance_mean"]) < 4 * spread * (1 / 100 + 1 / 400) ** 0.5


@pytest.mark.parametrize("n, classes, splits", [(2000, 10, 1), (3000, 50, 10), (1003, 20, 10)])
def test_inception_score(n, classes, splits):
    """torch-fidelity takes the rows in the order of ours, its own shuffle off; torchmetrics draws the same order from the global generator.

    The parts are the same where n is a multiple of their number. Else they differ by a row: ours has the longer parts first, torch-fidelity
    spreads them, torchmetrics has a shorter last part.
    """
    rows = logits(n, classes).double()
    value = inception_score(rows.softmax(1), splits, generator=torch.Generator().manual_seed(3))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(3)) if splits > 1 else torch.arange(n)
    fidelity = isc_features_to_metric(rows[order], splits=splits, shuffle=False)["inception_score_mean"]
    assert fidelity == pytest.approx(value, rel=1e-9 if n % splits == 0 else 2e-3)
    other = InceptionScore(feature=Given(classes), splits=splits)
    other.update(rows)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        shuffled = other.compute()[0].item()
    assert shuffled == pytest.approx(value, rel=1e-9 if n % splits == 0 else 5e-3)
