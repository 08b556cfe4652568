"""What the theory is tested on: data sets with their exact oracles and trained networks, and data laws with known formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.config.identity import short_hash
from harness.core import randomness
from harness.data.datasets import Dataset
from harness.errors import HarnessError
from harness.theory.estimate import Estimate, pool
from harness.theory.flow import SIGMA_MAX, SIGMA_MIN
from harness.theory.gaussian import Gaussian, GaussianMixture
from harness.theory.oracle import Oracle, draw_rows
from harness.theory.proxy import noise_like
from harness.theory.studies.common import StudyContext, runs_by_data
from harness.training.trained_runs import TrainedRun

S = 0.5
"""Standard deviation of the Gaussian data, which is EDM's sigma_data."""
DIMENSIONS = (2, 64)


@dataclass(frozen=True)
class Effort:
    """The number of draws for the measurements that take long."""

    batches: int
    """Batches of R(theta) and of Theorem 1."""
    rows: int
    """Pairs in one batch."""
    gradients: int
    """Batches of the limits of the gradients."""
    flows: int
    """Most ideal flows for each side and level of Lemma 1."""


EFFORTS = {"toy": Effort(12, 256, 8, 8192), "digits": Effort(12, 64, 8, 8192)}


def effort(scale: str) -> Effort:
    """The effort at a scale; the scales that need a GPU have the largest."""
    return EFFORTS.get(scale, Effort(24, 64, 8, 16_384))


@dataclass(frozen=True, eq=False)
class Subject:
    """A data set with its oracle in float64 (`exact`) and float32 (`fast`), and networks trained on it, in float64."""

    name: str
    data: Dataset
    exact: Oracle
    fast: Oracle
    networks: tuple[TrainedRun, ...]

    def draw(self, n: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """n pairs (x, z) of IC, float64, on the device of the data."""
        x = self.exact.data(draw_rows(len(self.exact), n, draws))
        return x, noise_like(x, draws)

    def draw_fast(self, n: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """n pairs (x, z) of IC, float32, both (n, d)."""
        x = self.fast.data(draw_rows(len(self.fast), n, draws)).flatten(1)
        return x, noise_like(x, draws)


def load_subjects(context: StudyContext) -> list[Subject]:
    """The data sets of the context's runs. Raises HarnessError without runs, for runs that are not done, and for runs with labels."""
    if not context.runs:
        expected = "a finished run with IC"
        raise HarnessError("no run to measure", where="theory", found="no run", expected=expected, nearest=context.sweep_command)
    subjects = []
    for runs in runs_by_data(context.runs):
        networks = tuple(context.trained(run, torch.float64) for run in runs)
        data = networks[0].data
        subjects.append(Subject(runs[0].data.name, data, Oracle(data.rows, torch.float64), Oracle(data.rows), networks))
    return subjects


def gaussians() -> dict[str, Gaussian]:
    """Gaussian data laws by the data name of their rows."""
    return {f"gaussian-{d}d": Gaussian(d, S) for d in DIMENSIONS}


def mixtures() -> dict[str, GaussianMixture]:
    """Mixtures of two and eight Gaussians, wider than in the toy data so that importance sampling moves between the components."""
    angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    circle = 0.7 * torch.stack([angle.cos(), angle.sin()], 1)
    return {
        "mixture-of-2": GaussianMixture(torch.tensor([[0.0, -0.5], [0.0, 0.5]], dtype=torch.float64), 0.2),
        "mixture-of-8": GaussianMixture(circle, 0.1),
    }


def draw_pairs(law: Gaussian | GaussianMixture, n: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """n pairs (x, z) of IC from a law, float64 on the CPU."""
    x = law.sample(n, draws)
    return x, noise_like(x, draws)


def address(*place: object) -> torch.Generator:
    """A generator addressed by what is measured with it, so that measurements do not affect each other's draws."""
    return randomness.generator(0, "measure", int(short_hash([str(part) for part in place]), 16))


def steppable(t: float) -> bool:
    """Whether the central difference of `transport.derivative` around t stays within the noise levels."""
    return t * 0.99 >= SIGMA_MIN and t * 1.01 <= SIGMA_MAX


def until(make: Callable[[torch.Generator], Estimate], place: tuple[object, ...], within: float, most: int) -> Estimate:
    """The pooled mean of independent estimates, drawn until its relative error is at most `within` or `most` draws are used."""
    parts: list[Estimate] = []
    while True:
        parts.append(make(address(*place, len(parts))))
        pooled = pool(parts)
        if pooled.n >= most or pooled.se <= within * abs(pooled.value):
            return pooled
