"""Why mu lies between 0.3 and 0.7: bias, gradient variance, R(theta) and transport cost of models trained at many mu and grid sizes N.

All models of a data set are measured on the same noise, pairs and levels, so that differences between them are more precise than each
value. x is mu throughout (0 for IC), and `case` names the number of intervals of the last grid (`case_of_grid`). Beside the
models stand

- the closed form (harness.theory.joint_learning) for Gaussian data of the same dimension and mean variance, and the same levels, their law
  and weights;
- linear models on Gaussian data that the harness itself trains (harness.theory.studies.linear_models), with their true values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from harness.config.parts import ConsistencyTraining, GeneratorAugmented, Independent, coupling_label
from harness.config.run import Run
from harness.core.randomness import generator
from harness.data import datasets
from harness.errors import HarnessError
from harness.store.measurements import CLOSED_FORM, MeasurementRow, case_of_grid
from harness.theory import gradient_variance, joint_learning
from harness.theory.discrepancy import Times, discrepancy
from harness.theory.estimate import Estimate, mean, ratio
from harness.theory.flow import SIGMA_MAX, SIGMA_MIN, at_level, squared_norms
from harness.theory.oracle import Oracle, draw_rows
from harness.theory.proxy import noise_like
from harness.theory.studies import figure3, linear_models
from harness.theory.studies.common import NewRow, StudyContext, StudyPart, check_unconditional, measure_parts, measured_row, runs_by_data
from harness.training.model import last_levels
from harness.training.trained_runs import TrainedRun

LEVELS = (1.0, 5.0, 20.0)
"""Noise levels of c(t)."""
GENERATED, PAIRS = 1024, 1024
"""Samples for the bias, pairs for c(t)."""
GRADIENTS = (32, 64)
"""Batches and rows of a batch, of IC and of GC each, for the variance of the gradient."""
BATCHES, NUMBERS = 32, 2**13
"""Batches for R(theta), and coordinates of a batch (128 digits; at most 256 rows)."""
CURVE = tuple(round(0.05 * i, 2) for i in range(21))
"""mu at which the closed form is evaluated."""


def mu_and_grid(run: Run) -> tuple[float, int]:
    """The share of GC rows, 0 for IC, and the intervals of the last grid.

    Raises HarnessError for a model with labels, another objective than iCT's, and another coupling than IC and GC by the EMA network.
    """
    check_unconditional(run)
    coupling, objective = run.coupling, run.objective
    if not isinstance(objective, ConsistencyTraining):
        raise HarnessError("no grid of noise levels", where=run.id, found=f"objective.kind = {objective.kind}", expected="ict")
    if isinstance(coupling, Independent):
        return 0.0, objective.n1
    if not isinstance(coupling, GeneratorAugmented) or coupling != GeneratorAugmented(mu=coupling.mu):
        label, expected = coupling_label(coupling), "IC, or GC with its EMA network"
        raise HarnessError("this coupling is not part of the study", where=run.id, found=label, expected=expected)
    return coupling.mu, objective.n1


@dataclass(frozen=True)
class SharedInputs:
    """What all models of a data set are measured on. start: noise at sigma_max; ideal: the ends of the ideal flow from there."""

    oracle: Oracle
    pairs: figure3.SharedDraws
    start: Tensor
    ideal: Tensor
    sigma_max: float


@torch.no_grad()
def shared_inputs(data: datasets.Dataset, sigma_max: float) -> SharedInputs:
    """Draws of the "measure" stream, the same in every call. Raises HarnessError for data that do not fit into memory."""
    oracle, pairs = Oracle(data.rows), figure3.shared_draws(data)
    z = noise_like(data.batch(draw_rows(len(data), GENERATED, generator(0, "measure", 20))), generator(0, "measure", 21))
    start = sigma_max * z
    return SharedInputs(oracle, pairs.first(PAIRS), start, oracle.flow(start, sigma_max), sigma_max)


def measure(context: StudyContext) -> list[MeasurementRow]:
    """Rows of every run, the closed form for every grid of the runs, and the linear models trained here.

    Raises HarnessError for a run that is not finished, has labels, or another objective or coupling than this study is about.
    """
    for run in context.runs:
        mu_and_grid(run)
    models = [part for group in runs_by_data(context.runs) for part in _parts(context, group)]
    linear = StudyPart("linear models on Gaussian data, trained here", linear_models.measure)
    return measure_parts([linear, *models], context)


def _parts(context: StudyContext, runs: Sequence[Run]) -> list[StudyPart]:
    """The parts of one data set."""
    data = context.trained(runs[0]).data
    inputs = cache(partial(shared_inputs, data, min(SIGMA_MAX, runs[0].noise.sigma_max)))  # made when the first model needs them
    grids = {mu_and_grid(run)[1]: run for run in runs}
    spread = float(data.batch(torch.arange(len(data))).double().flatten(1).var(0).mean().sqrt())
    curves = [
        StudyPart(f"{run.data.name}: closed form, N = {n}", partial(closed_form_rows, run, n, spread, data.dim)) for n, run in grids.items()
    ]
    models = [StudyPart(f"{run.id}, N = {mu_and_grid(run)[1]}", partial(_model, context, run, inputs)) for run in runs]
    return [*curves, *models]


def _model(context: StudyContext, run: Run, inputs: Callable[[], SharedInputs]) -> list[MeasurementRow]:
    return model_rows(context.trained(run), inputs(), context.levels or LEVELS)


def model_rows(trained: TrainedRun, shared: SharedInputs, levels: Sequence[float] = LEVELS) -> list[MeasurementRow]:
    """The rows of one model, which is measured in float32. Raises HarnessError as `mu_and_grid`."""
    run = trained.run
    mu, n = mu_and_grid(run)
    trained.network.bf16 = False
    new_row = partial(measured_row, data=run.data.name, coupling=run.coupling, case=case_of_grid(n), run=run, x=mu)
    rows = generated_rows(trained, shared, new_row)
    gradients = gradient_variance.measure(run, trained.network, trained.data, generator(0, "measure", 22), *GRADIENTS)
    rows += gradient_rows(gradients, mu, partial(new_row, protocol={"batches": GRADIENTS, "weights": "EMA", "levels": "last step's law"}))
    return rows + _discrepancy(trained, shared, new_row) + _costs(trained, shared, levels, new_row)


@torch.no_grad()
def generated_rows(trained: TrainedRun, shared: SharedInputs, new_row: NewRow) -> list[MeasurementRow]:
    """mu-bias and mu-spread: what f generates from sigma_max z against the ends of the ideal flow from the same noise."""
    new_row = partial(new_row, protocol={"samples": len(shared.start), "against": "ideal flow of the training data"})
    ends = torch.cat([trained(x, at_level(x, shared.sigma_max)) for x in shared.start.split(256)])
    bias = mean(squared_norms(ends - shared.ideal) / trained.data.dim)
    return [new_row("mu-bias", bias), new_row("mu-spread", spread_ratio(ends, shared.ideal))]


def spread_ratio(generated: Tensor, ideal: Tensor) -> Estimate:
    """The standard deviation of paired points (n, ...) over that of the ideal ones, over all coordinates together."""
    variances = ratio(*(squared_norms(points - points.mean(0)) for points in (generated, ideal)))
    value = variances.value**0.5
    return Estimate(value, variances.se / (2 * value) if value else variances.se, variances.n)


def gradient_rows(gradients: gradient_variance.RowGradients, mu: float, new_row: NewRow) -> list[MeasurementRow]:
    """The variance of a one-row gradient at mu and its three parts, and GC's over IC's at the same weights."""
    parts = zip(("mu-gradient-ic", "mu-gradient-gc", "mu-gradient-between"), gradients.parts(mu), strict=True)
    own_ratio = gradients.estimate(lambda v: v[..., 1] / v[..., 0])
    return [
        new_row("mu-gradient", gradients.total(mu)),
        *(new_row(name, part) for name, part in parts),
        new_row("mu-gradient-ratio", own_ratio),
    ]


def _discrepancy(trained: TrainedRun, shared: SharedInputs, new_row: NewRow) -> list[MeasurementRow]:
    """R(theta) over IC's pairs for every model, with the exact velocity and the same draws."""
    run, data = trained.run, trained.data

    def draw(n: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        x = data.batch(draw_rows(len(data), n, draws))
        return x, noise_like(x, draws)

    times = Times(min(SIGMA_MAX, run.noise.sigma_max), max(SIGMA_MIN, run.noise.sigma_min))
    rows = max(16, min(256, NUMBERS // data.dim))
    value = discrepancy(trained, shared.oracle.velocity, draw, times, generator(0, "measure", 23), 2.0, BATCHES, rows)
    protocol = {"lambda": 1, "alpha": 2, "batches": BATCHES, "rows": rows, "pairs": "IC", "t": [times.t_min, times.T]}
    return [new_row("mu-discrepancy", value, protocol=protocol)]


def _costs(trained: TrainedRun, shared: SharedInputs, levels: Sequence[float], new_row: NewRow) -> list[MeasurementRow]:
    """c(t) with the model's own endpoints."""
    pairs, rows = shared.pairs, []
    for t in levels:
        ends = figure3.endpoints(trained, pairs.x, pairs.z, t)
        cost = pairs.expectation(squared_norms(ends - pairs.z))
        rows.append(new_row("mu-cost", cost, t=t, protocol={"pairs": len(pairs.x), "controls": 3}))
    return rows


def closed_form_rows(run: Run, n: int, s: float, d: int) -> list[MeasurementRow]:
    """The closed form on the grid of a run, which has n intervals, with its law and weights of levels, for Gaussian data N(0, s^2 I_d)."""
    new_row = partial(measured_row, data=run.data.name, coupling=CLOSED_FORM, case=case_of_grid(n))
    levels, rows = last_levels(run).numpy(), []
    for mu in CURVE:
        spread = joint_learning.generated_spread(levels, s, mu)
        rows += [new_row("mu-spread", spread, x=mu), new_row("mu-bias", (s * (spread - 1)) ** 2, x=mu)]
        rows += gradient_rows(linear_models.exact_gradients(run, s, d, mu), mu, partial(new_row, x=mu))
    return rows
