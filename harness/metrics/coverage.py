"""Coverage: does a sample reach all of the data? Improved precision and recall, and the histogram of classes (mode dropping)."""

from __future__ import annotations

import numpy as np
import torch

from harness.metrics.quality import Array

PAIRS = 1 << 24  # distances held at once: 128 MB in float64
SURE = 0.9  # the probability of a class from which an image surely has it
SHARES_UP_TO = 20  # classes up to which every class share is a metric of its own


def _blocks(rows: torch.Tensor, columns: int) -> tuple[torch.Tensor, ...]:
    return rows.split(max(1, PAIRS // max(columns, 1)))


def radii(points: Array, k: int = 3) -> torch.Tensor:
    """Distance (n,) of each row of points (n, d) to its k-th nearest other row, float64; n > k."""
    points = torch.as_tensor(points).double()
    if len(points) <= k:
        raise ValueError(f"{k} neighbours need more than {k} rows, got {len(points)}")
    nearest = [torch.cdist(block, points).topk(k + 1, dim=1, largest=False).values[:, -1] for block in _blocks(points, len(points))]
    return torch.cat(nearest)  # k + 1: each row is its own nearest


def covered(points: Array, queries: Array, radius: torch.Tensor) -> float:
    """Share of queries (m, d) that lie in at least one ball: centres points (n, d), radii (n,)."""
    points, queries = torch.as_tensor(points).double(), torch.as_tensor(queries).double()
    slack = 1e-7 * points.norm(dim=1).max()  # rounding of the distance between two equal rows, which must count as inside
    inside = [(torch.cdist(block, points) <= radius + slack).any(1) for block in _blocks(queries, len(points))]
    return torch.cat(inside).double().mean().item()


def precision_recall(real: Array, fake: Array, k: int = 3, real_radii: torch.Tensor | None = None) -> tuple[float, float]:
    """Improved precision and recall in [0, 1] of features fake (m, d) against real (n, d) (Kynkaanniemi et al. 2019, arXiv 1904.06991).

    Precision: share of fake rows within the k-th-neighbour ball of some real row. Recall: the same with the roles exchanged.
    Both depend on n and m: compare at equal sizes only. real_radii: `radii(real, k)` where they are already known.
    """
    real_radii = radii(real, k) if real_radii is None else real_radii
    return covered(real, fake, real_radii), covered(fake, real, radii(fake, k))


def class_share(probs: Array) -> np.ndarray:
    """Fractions (k,) of the most probable class over probs (n, k)."""
    probs = np.asarray(torch.as_tensor(probs).cpu())
    return np.bincount(probs.argmax(1), minlength=probs.shape[1]) / len(probs)


def sure_share(probs: Array, label: int) -> float:
    """The share of a class among the images that a classifier is sure of, by probs (n, k); 0 where it is sure of none.

    Bad samples are taken for some class, which matters where it is rare: of a Gaussian fitted to the digits without any 4, 0.34 % count as
    a 4, but 0.08 % of those with a probability of SURE or more. Real digits are above it, and models of equal classes keep their shares.
    """
    probs = np.asarray(torch.as_tensor(probs).cpu())
    sure = probs.max(1) >= SURE
    return float((probs[sure].argmax(1) == label).mean()) if sure.any() else 0.0


def class_metrics(probs: Array, reference: np.ndarray) -> dict[str, float]:
    """Compares the predicted classes of probs (n, k) with reference shares (k,), also predicted, so that the classifier's bias cancels.

    class_tv: total variation distance, in [0, 1]. classes_missing: how many classes have less than a tenth of their reference share, among
    the classes of which n draws would contain at least ten. class_share/i: the share of class i, where there are few classes.
    """
    share = class_share(probs)
    if share.shape != reference.shape:
        raise ValueError(f"{len(share)} classes, but {len(reference)} in the reference")
    missing = (reference * len(probs) >= 10) & (share < reference / 10)
    values = {"class_tv": float(np.abs(share - reference).sum() / 2), "classes_missing": float(missing.sum())}
    return values | ({f"class_share/{i}": fraction for i, fraction in enumerate(share.tolist())} if len(share) <= SHARES_UP_TO else {})
