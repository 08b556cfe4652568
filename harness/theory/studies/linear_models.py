"""Linear models that the harness's own trainer trains on Gaussian data, with harness.theory.joint_learning as their truth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from statistics import fmean, variance

import torch

from harness.config.parts import ConsistencyTraining, Data, Ema, Evaluation, GeneratorAugmented, Network, Training
from harness.config.run import Run
from harness.core import schedules
from harness.core.consistency import Preconditioned
from harness.core.randomness import generator
from harness.data import datasets
from harness.data.datasets import Dataset
from harness.store.measurements import MeasurementRow, case_of_grid
from harness.theory import gradient_variance, joint_learning
from harness.theory.estimate import Estimate, pool
from harness.theory.gradient_variance import RowGradients
from harness.theory.studies.common import measured_row
from harness.training.loop import Hooks, train
from harness.training.model import create, last_levels

INTERVALS, MU, SEEDS = (4, 10), (0.0, 0.5, 1.0), (0, 1, 2)
GRADIENTS = (100, 512)
"""Batches, and rows of a batch."""


def linear_run(mu: float, n: int, seed: int = 0, steps: int = 800) -> Run:
    """A linear model on N(0, 0.25 I_2), squared distance, n intervals from the first step on. Its levels are drawn more evenly than by the
    usual law, so that the coefficients of all of them converge; the fixed point does not depend on it."""
    return Run(
        scale="toy",
        data=Data(name="gaussian"),
        network=Network(kind="linear", dropout=(0.0,)),
        objective=ConsistencyTraining(n0=n, n1=n, distance="squared", p_mean=0.0, p_std=3.0),
        coupling=GeneratorAugmented(mu=mu),
        train=Training(steps=steps, batch=512, lr=3e-3, optimizer="adam", threads=1),
        ema=Ema(rate=0.99),
        evaluation=Evaluation(every=steps, samples=500),
        seed=seed,
    )


@dataclass(frozen=True)
class LinearModel:
    """A trained linear model. f: its EMA network."""

    run: Run
    data: Dataset
    f: Preconditioned

    @property
    def s(self) -> float:
        """The root mean square of a coordinate of the data, on which alone the slopes depend."""
        return float(self.data.rows.double().square().mean().sqrt())

    def slopes(self) -> torch.Tensor:
        """The learned a_i of f(x, sigma_i) = a_i x; (N,)."""
        levels = last_levels(self.run).float()
        with torch.no_grad():
            return self.f(torch.ones(len(levels), *self.data.shape), levels)[:, 0]

    def spread(self) -> float:
        """Standard deviation of f(sigma_max z, sigma_max) over that of the data."""
        return float(self.slopes()[-1]) * self.run.noise.sigma_max / self.s


def trained(run: Run) -> LinearModel:
    """The model of a run, trained in this process by the harness's training loop; nothing is written."""
    data, model = datasets.load(run.data.name), create(run)
    train(run, data, model, Hooks())
    return LinearModel(run, data, model.ema)


def exact_gradients(run: Run, s: float, d: int, mu: float) -> RowGradients:
    """The exact moments of one-row gradients of the linear network at the joint fixed point, for the levels of a run and N(0, s^2 I_d)."""
    assert isinstance(run.objective, ConsistencyTraining)
    levels, sd = last_levels(run), run.noise.sigma_data
    high = levels[1:].numpy()
    # da/dw of f = (c_skip + c_out w / sqrt(sd^2 + sigma^2)) x, equation (3)
    slope = sd * (high - run.noise.sigma_min) / (sd**2 + high**2)
    probabilities = schedules.level_probabilities(levels, run.objective.p_mean, run.objective.p_std).numpy()
    factors = slope * schedules.inverse_gap(levels).numpy()
    values = torch.tensor(joint_learning.training_gradients(levels.numpy(), s, mu, d, probabilities, factors), dtype=torch.float64)
    return RowGradients(values, values.expand(2, 3))


def measure() -> list[MeasurementRow]:
    """linear-spread and linear-gradient of models trained at INTERVALS, MU and SEEDS, with the closed form as truth.

    Each is the mean over the seeds. The relative error of the spread is pooled over all intervals and mu, since three seeds alone do not
    give one; that of the gradient's variance is the Monte-Carlo error.
    """
    models = {(n, mu): [trained(linear_run(mu, n, seed)) for seed in SEEDS] for n in INTERVALS for mu in MU}
    spreads = {key: [model.spread() for model in group] for key, group in models.items()}
    error = math.sqrt(fmean(variance(values) / fmean(values) ** 2 for values in spreads.values()) / len(SEEDS))
    rows = []
    for (n, mu), group in models.items():
        run, s, d, spread = group[0].run, group[0].s, group[0].data.dim, fmean(spreads[n, mu])
        new_row = partial(measured_row, data=run.data.name, coupling="linear", case=case_of_grid(n), x=mu)
        truth = joint_learning.generated_spread(last_levels(run).numpy(), s, mu)
        rows.append(new_row("linear-spread", Estimate(spread, spread * error, len(SEEDS)), truth=truth))
        gradients = [measured_gradients(model, mu) for model in group]
        rows.append(new_row("linear-gradient", pool(gradients), truth=exact_gradients(run, s, d, mu).total(mu).value))
    return rows


def measured_gradients(model: LinearModel, mu: float) -> Estimate:
    """The variance of a one-row gradient of a linear model."""
    draws = generator(model.run.seed, "measure", 24)
    return gradient_variance.measure(model.run, model.f, model.data, draws, *GRADIENTS).total(mu)
