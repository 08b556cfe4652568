"""Samples for measuring: one noise seed for each chunk, so any device and any number of processes give the same ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness.core import consistency
from harness.core.randomness import generator

SEED = 0
"""All models are measured on the same noise, so that differences between them carry less of it."""


def noise(shape: tuple[int, ...], k: int, rows: range, part: int = 0) -> Tensor:
    """N(0, I) for rows of the k-th resampling, (len(rows), *shape), drawn on the CPU; part: which draw of a multi-step sampler."""
    return torch.randn(len(rows), *shape, generator=generator(SEED, "eval", 16 * k + part, rows.start))


def sampler(
    f: Callable[..., Tensor], shape: tuple[int, ...], sigma_max: float, device: torch.device | str = "cpu", times: tuple[float, ...] = (),
    classes: int = 0,
) -> Callable[[int, range], Tensor]:
    """generate(k, rows) of `harness.measure.evaluate`: one-step samples f(sigma_max z, sigma_max), or more steps through `times`.

    classes: for conditional models, labels drawn uniformly and addressed like the noise.
    """

    def generate(k: int, rows: range) -> Tensor:
        z, *more = (noise(shape, k, rows, part).to(device) for part in range(1 + len(times)))
        labels = None
        if classes:
            drawn = torch.randint(classes, (len(rows),), generator=generator(SEED, "labels", k, rows.start))
            labels = torch.nn.functional.one_hot(drawn, classes).float().to(device)
        return consistency.sample(f, z, sigma_max, times, more, labels=labels)

    return generate
