"""Metrics of 2-D point sets: the exact Wasserstein-2 distance, and which modes of a mixture a sample covers."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch

from harness.metrics.quality import Array

os.environ.setdefault("POT_BACKEND_DISABLE_PYTORCH", "1")  # before `import ot`, which would start CUDA on device 0
import ot

REACH = 3.0  # standard deviations around a centre that count as its mode; 98.9 % of a 2-D Gaussian


def wasserstein2(x: Array, y: Array) -> float:
    """Exact W2 between the uniform distributions on the rows of x (n, d) and y (m, d), by POT: half a second at n = 2,000.

    Between two samples of the same law it is not 0: compare with the value for real points. Raises ArithmeticError if the solver fails.
    """
    x, y = (np.ascontiguousarray(torch.as_tensor(array).cpu(), dtype=np.float64) for array in (x, y))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise ValueError(f"expected points (n, d) and (m, d), got {x.shape} and {y.shape}")
    cost, log = ot.emd2([], [], ot.dist(x, y, metric="sqeuclidean"), numItermax=10_000_000, log=True)
    if log["warning"] is not None or not np.isfinite(cost):
        raise ArithmeticError(f"optimal transport of {len(x)} x {len(y)} points not solved: {log['warning']}")
    return float(np.sqrt(max(cost, 0.0)))


@dataclass(frozen=True)
class PointModes:
    """Centres (k, d), standard deviation of a coordinate (k,) and share (k,) of the modes of a mixture."""

    centres: torch.Tensor
    std: torch.Tensor
    share: torch.Tensor


def point_modes(points: torch.Tensor, labels: torch.Tensor) -> PointModes:
    """The modes of labelled points (n, d), labels (n,) in 0..k-1, each with two points at least."""
    groups = [points[labels == mode].double() for mode in range(int(labels.max()) + 1)]
    if min(map(len, groups)) < 2:
        raise ValueError("a mode has fewer than two points")
    centres = torch.stack([group.mean(0) for group in groups])
    std = torch.stack([group.var(0).mean().sqrt() for group in groups])
    return PointModes(centres, std, torch.tensor([len(group) / len(points) for group in groups], dtype=torch.float64))


def mode_metrics(points: Array, reference: PointModes) -> dict[str, float]:
    """How points (n, d) cover the modes of a mixture.

    in_mode: share of points within REACH standard deviations of their nearest centre. mode_tv: total variation distance, in [0, 1], between
    the modes' shares and the mixture's, points assigned to their nearest centre. modes_missing: modes with less than a tenth of their share
    inside them.
    """
    distance, nearest = torch.cdist(torch.as_tensor(points).cpu().double(), reference.centres).min(1)
    near = distance <= REACH * reference.std[nearest]
    k, n = len(reference.centres), len(nearest)
    share, share_inside = (torch.bincount(assigned, minlength=k).double() / n for assigned in (nearest, nearest[near]))
    return {
        "in_mode": near.double().mean().item(),
        "mode_tv": (share - reference.share).abs().sum().item() / 2,
        "modes_missing": float((share_inside < reference.share / 10).sum()),
    }
