"""Mode coverage of point sets against closed forms."""

import pytest
import torch
from scipy.stats import chi2

from harness.data.datasets import load
from harness.metrics.points import REACH, mode_metrics, point_modes


def test_mixture_finds_the_eight_gaussians():
    data = load("eight-gaussians", "train")
    fitted = point_modes(data.rows, data.labels)
    angles = torch.arange(8) * torch.pi / 4
    truth = 0.7 * torch.stack([angles.cos(), angles.sin()], 1)
    assert (fitted.centres - truth).abs().max() < 0.01
    assert (fitted.std - 0.03).abs().max() < 0.003
    assert fitted.share.sum().item() == pytest.approx(1)
    with pytest.raises(ValueError, match="fewer than two"):
        point_modes(torch.zeros(3, 2), torch.tensor([0, 0, 1]))


def test_modes_of_real_points_of_a_dropped_mode_and_of_noise():
    train, fresh = load("eight-gaussians", "train"), load("eight-gaussians", "heldout")
    reference = point_modes(train.rows, train.labels)
    real = mode_metrics(fresh.rows, reference)
    assert real["in_mode"] == pytest.approx(chi2.cdf(REACH**2, df=2), abs=0.006)
    assert real["modes_missing"] == 0 and real["mode_tv"] < 0.05
    dropped = mode_metrics(fresh.rows[fresh.labels != 3], reference)
    assert dropped["modes_missing"] == 1 and dropped["mode_tv"] == pytest.approx(reference.share[3].item(), abs=0.03)
    noise = mode_metrics(torch.randn(2000, 2, generator=torch.Generator().manual_seed(0)), reference)
    assert noise["in_mode"] < 0.1
    centre = mode_metrics(torch.zeros(50, 2), reference)
    assert (centre["in_mode"], centre["modes_missing"]) == (0, 8)
