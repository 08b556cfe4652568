"""What the theory is held against: data sets with their exact oracles and trained networks, and laws whose formulas are known."""

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
from harness.theory.studies.common import Setting, check_unconditional
from harness.training.trained_runs import TrainedRun

S = 0.5
"""Standard deviation of the Gaussian data: sigma_data."""
DIMENSIONS = (2, 64)


@dataclass(frozen=True)
class Effort:
    """How much is spent on what costs: networks and flows."""

    batches: int
    """Batches of R(theta) and of Theorem 1, whose spread is their error."""
    rows: int
    """Pairs of one batch."""
    gradients: int
    """Batches of the gradients' limits."""
    flows: int
    """Ideal flows of Lemma 1 at most, for each of its sides and levels."""


EFFORTS = {"toy": Effort(12, 256, 8, 8192), "digits": Effort(12, 64, 8, 8192)}
LARGE = Effort(24, 64, 8, 16_384)


def effort(scale: str) -> Effort:
    """That of a scale, the largest for those that need a GPU."""
    return EFFORTS.get(scale, LARGE)


@dataclass(frozen=True, eq=False)
class Subject:
    """A data set as the exact law it is. exact: its oracle in float64; fast: in float32. networks: those trained on it, float64."""

    name: str
    data: Dataset
    exact: Oracle
    fast: Oracle
    networks: tuple[TrainedRun, ...]

    def draw(self, n: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """n pairs (x, z) of IC, float64, on the data's device."""
        x = self.exact.data(draw_rows(len(self.exact), n, draws))
        return x, noise_like(x, draws)

    def draw_fast(self, n: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """The same in float32, as rows (n, d)."""
        x = self.fast.data(draw_rows(len(self.fast), n, draws)).flatten(1)
        return x, noise_like(x, draws)


def subjects(setting: Setting) -> list[Subject]:
    """The data sets of the setting's runs. Raises HarnessError without runs, for runs that are not done and for those with labels."""
    if not setting.runs:
        expected = "a finished run with IC"
        raise HarnessError("no run to measure", where="theory", found="no run", expected=expected, nearest=setting.mend or None)
    for run in setting.runs:
        check_unconditional(run)
    found = []
    for key in dict.fromkeys((run.data.name, run.data.limit) for run in setting.runs):
        networks = tuple(setting.finished(run, torch.float64) for run in setting.runs if (run.data.name, run.data.limit) == key)
        data = networks[0].data
        found.append(Subject(key[0], data, Oracle(data.rows, torch.float64), Oracle(data.rows), networks))
    return found


def gaussians() -> dict[str, Gaussian]:
    """Gaussian data by the name of their rows."""
    return {f"gaussian-{d}d": Gaussian(d, S) for d in DIMENSIONS}


def mixtures() -> dict[str, GaussianMixture]:
    """Two and eight Gaussians, wider than the toy sets', since importance sampling must find its way between them."""
    angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    circle = 0.7 * torch.stack([angle.cos(), angle.sin()], 1)
    return {
        "mixture-of-2": GaussianMixture(torch.tensor([[0.0, -0.5], [0.0, 0.5]], dtype=torch.float64), 0.2),
        "mixture-of-8": GaussianMixture(circle, 0.1),
    }


def pairs_of(law: Gaussian | GaussianMixture) -> Callable[[int, torch.Generator], tuple[Tensor, Tensor]]:
    """Draws of IC from a law, float64 on the CPU."""

    def draw(n: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        x = law.sample(n, draws)
        return x, noise_like(x, draws)

    return draw


def address(*place: object) -> torch.Generator:
    """The draws of one number, named by what it measures, so that no part disturbs another's."""
    return randomness.generator(0, "measure", int(short_hash([str(part) for part in place]), 16))


def steppable(t: float, step: float = 0.01) -> bool:
    """Whether a central difference about t stays within the noise levels."""
    return t * (1 - step) >= SIGMA_MIN and t * (1 + step) <= SIGMA_MAX


def until(make: Callable[[torch.Generator], Estimate], place: tuple[object, ...], within: float, most: int) -> Estimate:
    """Independent estimates pooled until the error is `within` of the value (a share of it), or `most` draws are spent."""
    parts: list[Estimate] = []
    while True:
        parts.append(make(address(*place, len(parts))))
        found = pool(parts)
        if found.n >= most or found.se <= within * abs(found.value):
            return found
