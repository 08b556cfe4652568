"""The variance of the stochastic gradient of consistency training: within IC rows, within GC rows, and between the two populations.

A row is GC with probability mu. The variance of a one-row gradient, the trace of its covariance over all parameters, is

    (1 - mu) V_IC + mu V_GC + mu (1 - mu) |m_IC - m_GC|^2

with V the variance and m the mean gradient of a population. A batch of B rows has 1/B of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from harness.config.parts import ConsistencyTraining
from harness.config.run import Run
from harness.core import couplings, schedules
from harness.core.consistency import Preconditioned
from harness.data.datasets import Dataset
from harness.errors import HarnessError
from harness.theory.estimate import Estimate, jackknife_error, squared_mean
from harness.theory.oracle import check_memory, draw_rows
from harness.theory.proxy import noise_like
from harness.training.batches import Step
from harness.training.loop import endpoint_predictor, losses
from harness.training.model import last_levels


@dataclass(frozen=True)
class RowGradients:
    """(V_IC, V_GC, |m_IC - m_GC|^2) of one-row gradients, each without bias, so that the last may be below 0.

    values: (3,). without: the same without each of the n batches, (n, 3), for the jackknife; both float64.
    """

    values: Tensor
    without: Tensor

    def estimate(self, function: Callable[[Tensor], Tensor]) -> Estimate:
        """A function of the three numbers, (..., 3) -> (...), with its jackknife error over the batches."""
        return Estimate(float(function(self.values)), jackknife_error(function(self.without)), len(self.without))

    def total(self, mu: float) -> Estimate:
        """The variance of a one-row gradient when a row is GC with probability mu."""
        return self.estimate(lambda v: v @ shares(mu))

    def parts(self, mu: float) -> tuple[Estimate, Estimate, Estimate]:
        """The parts of `total`: within IC rows, within GC rows, between the two."""
        weights = torch.diag(shares(mu))
        within_ic, within_gc, between = (self.estimate(partial(torch.matmul, other=weight)) for weight in weights)
        return within_ic, within_gc, between


def shares(mu: float) -> Tensor:
    """The weights (1 - mu, mu, mu (1 - mu)) of the three parts; (3,) float64."""
    return torch.tensor([1 - mu, mu, mu * (1 - mu)], dtype=torch.float64)


def row_gradients(ic: Tensor, gc: Tensor, rows: int) -> RowGradients:
    """From mean gradients of n >= 3 independent batches of `rows` rows, IC's and GC's from the same data, noise and levels; both (n, p)."""
    columns = [(values * rows, without * rows) for values, without in map(_trace_of_variance, (ic, gc))]
    columns.append(squared_mean(ic - gc))
    values, without = zip(*columns, strict=True)
    return RowGradients(torch.stack(values), torch.stack(without, 1))


def _trace_of_variance(g: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over parameters of the sample variance of g (n, p), and its values without each row; (), (n,) float64."""
    n, centred = len(g), (g - g.mean(0)).square().sum(1, dtype=torch.float64)
    return centred.sum() / (n - 1), (centred.sum() - n / (n - 1) * centred) / (n - 2)


def measure(run: Run, f: Preconditioned, data: Dataset, draws: torch.Generator, batches: int, rows: int) -> RowGradients:
    """The gradients of a run's loss at the weights of f, which is student, teacher and predictor, for rows of IC and of GC alike.

    Noise levels and weights are those of the last training step; no dropout. Raises HarnessError for a run that is not of iCT's objective
    and for gradients that do not fit into memory.
    """
    if not isinstance(run.objective, ConsistencyTraining):
        raise HarnessError("no grid of noise levels", where=run.id, found=f"objective.kind = {run.objective.kind}", expected="ict")
    network = copy.deepcopy(f).eval().requires_grad_()
    parameters = [p for p in network.parameters() if p.requires_grad]
    size = sum(p.numel() for p in parameters)
    check_memory(4 * batches * size * 4, f"{2 * batches} gradients of {size:,} parameters", data.rows.device)
    levels = last_levels(run)
    probabilities = schedules.level_probabilities(levels, run.objective.p_mean, run.objective.p_std)
    weights, replace = schedules.inverse_gap(levels), couplings.generator_augmented(1.0)
    predict = endpoint_predictor(network, None)
    gradients: list[list[Tensor]] = [[], []]
    for _ in range(batches):
        x = data.batch(draw_rows(len(data), rows, draws))
        z = noise_like(x, draws)
        i = schedules.sample_levels(probabilities, rows, draws)
        low, high, weight = (level.to(x.device) for level in (levels[i], levels[i + 1], weights[i]))
        for pairs, column in zip(((x, z), replace(x, z, low, predict, draws)), gradients, strict=True):
            loss = losses(run, network, Step(*pairs, None, low, high, weight), dropout=0).mean()
            column.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    ic, gc = (torch.stack(column) for column in gradients)
    return row_gradients(ic, gc, rows)
