"""Metrics of point sets: which modes of a mixture a sample covers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from harness.metrics.quality import Array

NEAR = 0.25  # of the distance between two neighbouring centres
REACH = 3.0  # standard deviations around a centre that count as its mode; 98.9 % of a 2-D Gaussian


@dataclass(frozen=True)
class PointModes:
    """Centres (k, d), standard deviation of a coordinate (k,) and share (k,) of the modes of a mixture.

    rare: a mode whose share of a sample is a metric of its own; rare_share: its share of the real points, as `share_near` measures it.
    """

    centres: torch.Tensor
    std: torch.Tensor
    share: torch.Tensor
    rare: int | None = None
    rare_share: float = 0.0

    def nearest(self, points: Array) -> tuple[torch.Tensor, torch.Tensor]:
        """The distance (n,) of each point (n, d) to the nearest centre, and the mode of that centre (n,)."""
        distance, nearest = torch.cdist(torch.as_tensor(points).cpu().double(), self.centres).min(1)
        return distance, nearest

    def share_near(self, points: Array, mode: int) -> float:
        """The share of a mode among the points (n, d) that lie near any centre, within NEAR of the gap to its neighbour; 0 if none does.

        Points between the modes count as none, so that bad samples of other modes are not taken for those of a rare one.
        """
        distance, nearest = self.nearest(points)
        gap = torch.cdist(self.centres, self.centres).fill_diagonal_(torch.inf).min(1).values
        near = nearest[distance <= NEAR * gap[nearest]]
        return (near == mode).double().mean().item() if len(near) else 0.0


def point_modes(points: torch.Tensor, labels: torch.Tensor, rare: int | None = None) -> PointModes:
    """The modes of labelled points (n, d), labels (n,) in 0..k-1, each with two points at least. rare: as in `PointModes`."""
    groups = [points[labels == mode].double() for mode in range(int(labels.max()) + 1)]
    if min(map(len, groups)) < 2:
        raise ValueError("a mode has fewer than two points")
    centres = torch.stack([group.mean(0) for group in groups])
    std = torch.stack([group.var(0).mean().sqrt() for group in groups])
    modes = PointModes(centres, std, torch.tensor([len(group) / len(points) for group in groups], dtype=torch.float64))
    if rare is None:
        return modes
    return replace(modes, rare=rare, rare_share=modes.share_near(points, rare))


def mode_metrics(points: Array, reference: PointModes) -> dict[str, float]:
    """How points (n, d) cover the modes of a mixture.

    in_mode: share of points within REACH standard deviations of their nearest centre. mode_tv: total variation distance, in [0, 1], between
    the modes' shares and the mixture's, points assigned to their nearest centre. modes_missing: modes with less than a tenth of their share
    inside them. rare_share, where a mode is rare: its share (see `PointModes.share_near`) over that of the real points, 1 if it is
    generated as often as it occurs in the data.
    """
    distance, nearest = reference.nearest(points)
    near = distance <= REACH * reference.std[nearest]
    k, n = len(reference.centres), len(nearest)
    share, share_inside = (torch.bincount(assigned, minlength=k).double() / n for assigned in (nearest, nearest[near]))
    values = {
        "in_mode": near.double().mean().item(),
        "mode_tv": (share - reference.share).abs().sum().item() / 2,
        "modes_missing": float((share_inside < reference.share / 10).sum()),
    }
    if reference.rare is not None:
        values["rare_share"] = reference.share_near(points, reference.rare) / reference.rare_share
    return values
