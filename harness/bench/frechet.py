"""The Frechet distance of Inception's 2,048 features: the harness's eigenvalues beside the matrix square root of SciPy."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from scipy.linalg import sqrtm

from harness.bench.rows import SECONDS, Row, ratio, row
from harness.bench.setting import Setting
from harness.core.randomness import generator
from harness.metrics.quality import frechet, root
from harness.theory.rate import seconds_of

PART = "frechet"
SIZES = (512, 1024, 2048)
GROWTH = 8.0
"""So many times longer does twice the dimension take; a size that would exceed the time is left out."""


def moments_of(d: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance (full rank, condition about 30) of d features, float64."""
    draw = generator(0, "measure", seed)
    x = torch.randn(2 * d, d, generator=draw, dtype=torch.float64)
    return torch.randn(d, generator=draw, dtype=torch.float64), x.T @ x / (2 * d)


def by_square_root(mu1: np.ndarray, cov1: np.ndarray, mu2: np.ndarray, cov2: np.ndarray) -> float:
    """The Frechet distance by the square root of the product of the covariances, as its definition says."""
    return float(((mu1 - mu2) ** 2).sum() + np.trace(cov1 + cov2 - 2 * sqrtm(cov1 @ cov2).real))


def measure(setting: Setting) -> Iterator[Row | str]:
    """Each dimension: the distance alone, where the root of the real images' covariance is known, and with that root."""
    allowed = 15 * max(setting.seconds, 0.1)
    for d in SIZES[: 1 if setting.quick else None]:
        tensors = [tensor.to(setting.device) for seed in (0, 1) for tensor in moments_of(d, seed)]
        mu1, cov1, mu2, cov2 = tensors
        known = root(cov1)
        calls = {
            "known root": partial(frechet, mu1, cov1, mu2, cov2, root1=known),
            "complete": partial(frechet, mu1, cov1, mu2, cov2),
            "scipy": partial(by_square_root, *(tensor.cpu().numpy() for tensor in tensors)),
        }
        # without a call that does not count: at d = 2048, SciPy needs half a minute
        times = setting.turns({name: partial(seconds_of, call, setting.device) for name, call in calls.items()}, warm=d > SIZES[0])
        yield ratio(PART, f"d = {d}", "scipy's sqrtm / harness", times["scipy"], times["known root"], "at least 2.5 at d = 2048")
        yield ratio(PART, f"d = {d}", "scipy's sqrtm / harness, with the root of the real images", times["scipy"], times["complete"])
        yield row(PART, f"d = {d}", "harness", SECONDS, times["known root"])
        if GROWTH * sum(min(seconds) for seconds in times.values()) > allowed and d < SIZES[-1]:
            yield f"Frechet distances of more than {d} features: not measured, they may take over {allowed:g} s; --seconds allows more"
            break
