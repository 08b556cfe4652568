"""Figure 3: the quadratic transport cost c(t) = E|f(x_t, t) - z|^2 of equation (19), for GC with the ideal flow and with trained models.

It is compared with the costs of IC, batch-OT and exact OT, which do not depend on t. The endpoints of a trained f lie close to the data,
shifted towards z; a shift of e z lowers c by about 2 e d, below what any coupling of the data can reach. Therefore cost-data is the cost
after moving every endpoint to the nearest data point (a coupling of data and noise, like batch-OT), and data-distance the mean squared
length of that move. Exact OT between the data and the same number of noises is not a lower bound, because that noise is finite.

All curves of a data set use the same pairs (x, z) and a regression on |z|^2, <x, z> and |x|^2, whose means are known exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from harness.config.parts import GeneratorAugmented, coupling_label, coupling_slug
from harness.config.run import Run
from harness.core.randomness import generator
from harness.data.datasets import Dataset
from harness.store.measurements import MeasurementRow
from harness.theory.estimate import Estimate, mean
from harness.theory.flow import SIGMA_MAX, Function, at_level, noised, squared_norms
from harness.theory.oracle import Oracle, draw_rows
from harness.theory.proxy import noise_like
from harness.theory.studies.common import NewRow, StudyContext, StudyPart, measure_parts, measured_row, runs_by_data
from harness.theory.studies.run_pairs import pairs_of
from harness.theory.transport import batch_ot_cost, pair_cost
from harness.training.trained_runs import TrainedRun

LEVELS = (0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0, 80.0)
SIZES = {128: 32, 512: 16, 2048: 4}
"""The number of assignments for each batch size of batch-OT."""
MOST = 4096
"""Most rows of exact OT (0.7 GB, seconds); a larger data set is subsampled."""
IC_BATCHES, PAIR_BATCHES = 16, 32
NUMBERS = 2**21
"""Coordinates of the pairs that the curves share."""
WORK = {"cpu": 1e12, "cuda": 1e15}
"""Floating-point operations (about a minute) to which the rows of the ideal flow are limited, but not below LEAST. If LEAST rows cost more
than OVER times as much, the ideal flow is left out."""
LEAST, OVER, CHUNK, STEPS = 64, 4, 512, 40


@dataclass(frozen=True)
class SharedDraws:
    """The pairs (x, z) that all curves of a data set use."""

    x: Tensor
    z: Tensor
    controls: Tensor
    """Three numbers of each pair whose means are zero; (n, 3)."""
    ic: float
    """The exact c(0) = E|x|^2 + d."""

    def first(self, n: int) -> SharedDraws:
        """The first n pairs."""
        return SharedDraws(self.x[:n], self.z[:n], self.controls[:n], self.ic)

    def expectation(self, values: Tensor) -> Estimate:
        """The mean of values (n,) by a linear regression on the controls, with the error of its residuals."""
        columns = torch.cat([torch.ones_like(self.controls[:, :1]), self.controls], 1)
        values = values.double()
        coefficients = torch.linalg.lstsq(columns, values[:, None]).solution
        residuals = values - (columns @ coefficients).squeeze(1)
        n, k = columns.shape
        return Estimate(float(coefficients[0]), float((residuals.square().sum() / (n - k) / n).sqrt()), n)


@torch.no_grad()
def shared_draws(data: Dataset) -> SharedDraws:
    """Every data row once, or as many different rows as NUMBERS allows, each with its own noise."""
    n = min(len(data), max(LEAST, NUMBERS // data.dim))
    x = data.batch(draw_rows(len(data), n, generator(0, "measure", 0)))
    z = noise_like(x, generator(0, "measure", 1))
    square = sum(float(data.batch(part).square().sum(dtype=torch.float64)) for part in torch.arange(len(data)).split(8192)) / len(data)
    a, b = x.flatten(1).double(), z.flatten(1).double()
    controls = torch.stack([b.square().sum(1) - data.dim, (a * b).sum(1), a.square().sum(1) - square], 1)
    return SharedDraws(x, z, controls, square + data.dim)


def measure(context: StudyContext) -> list[MeasurementRow]:
    """Rows cost, cost-change, cost-data and data-distance at LEVELS or at the levels of the context, and pair-cost of every run.

    Raises HarnessError for a run that is not finished or has labels, and for data that do not fit into memory.
    """
    runs = [run for run in context.runs if run.objective.kind != "denoiser"]
    return measure_parts([part for group in runs_by_data(runs) for part in _parts(context, group)], context)


def _parts(context: StudyContext, runs: Sequence[Run]) -> list[StudyPart]:
    """The parts of one data set: the costs that do not depend on t, the ideal flow, and each trained model."""
    levels = [0.0, *sorted(context.levels or LEVELS)]
    models = [context.trained(run) for run in runs]
    data, name = models[0].data, runs[0].data.name
    draws, oracle = shared_draws(data), Oracle(data.rows)
    flat = StudyPart(f"{name}: IC, batch-OT and exact OT of {len(data):,} data points", partial(flat_rows, context, data, draws))
    ideal = StudyPart(f"{name}: c(t) with the ideal flow", partial(ideal_rows, context, oracle, name, draws, levels))
    trained = [
        StudyPart(f"{name}: c(t) with the model of {model.run.slug}", partial(trained_rows, context, model, oracle, draws, levels))
        for model in models
    ]
    return [flat, ideal, *trained]


def trained_rows(
    context: StudyContext, model: TrainedRun, oracle: Oracle, draws: SharedDraws, levels: Sequence[float]
) -> list[MeasurementRow]:
    """c(t) with the network of a run, which is set to float32, and the cost of the pairs that it trains on."""
    model.network.bf16 = False
    run = model.run
    slug, own = coupling_slug(run.coupling), isinstance(run.coupling, GeneratorAugmented)
    new_row = partial(measured_row, data=run.data.name, run=run)
    coupling, case = (slug, "") if own else ("gc", f"by {slug}")
    curve = partial(new_row, coupling=coupling, case=case, label=f"GC by iCT-{coupling_label(run.coupling)}")
    cost = pairs_of(model, context.store).cost(PAIR_BATCHES)
    return [*curve_rows(model, oracle, draws, levels, curve), new_row("pair-cost", cost, coupling=slug, protocol={"batches": PAIR_BATCHES})]


def flat_rows(context: StudyContext, data: Dataset, draws: SharedDraws) -> list[MeasurementRow]:
    """The costs that do not depend on t: rows without x, as cost and, since their endpoints are data points, as cost-data."""
    n, noise = len(data), generator(0, "measure", 2)
    rows = draw_rows(n, len(draws.x) * IC_BATCHES, noise)
    costs = [pair_cost(x, noise_like(x, noise)) for x in map(data.batch, rows.split(len(draws.x)))]
    ic = Estimate(sum(c.value for c in costs) / len(costs), sum(c.se**2 for c in costs) ** 0.5 / len(costs), sum(c.n for c in costs))
    new_row = partial(measured_row, "cost", data=data.name)
    measured = [new_row(ic, coupling="ic", label="IC", truth=draws.ic, protocol={"pairs": ic.n})]
    for size, batches in SIZES.items():
        if size > n:
            context.note(f"{data.name}: batch-OT of {size:,} is left out: there are {n:,} data points")
            continue
        cost = assignment_batches(data, size, batches, generator(0, "measure", size))
        measured.append(new_row(cost, coupling=f"ot-{size}", label=f"batch-OT, {size:,}", protocol={"batches": batches}))
    size = min(n, MOST)
    if size < n:
        context.note(f"{data.name}: exact OT of {size:,} of the {n:,} data points, to limit its memory")
    batches = 6 if size <= MOST // 2 else 2
    cost = assignment_batches(data, size, batches, generator(0, "measure", 3))
    label = f"exact OT, {size:,}" + ("" if size == n else f" of {n:,}")
    measured.append(new_row(cost, coupling="exact-ot", label=label, protocol={"batches": batches}))
    return measured + [replace(row, quantity="cost-data") for row in measured]


def assignment_batches(data: Dataset, size: int, batches: int, draws: torch.Generator) -> Estimate:
    """E|x' - z'|^2 of batch-OT over `size` rows. Only the rows of one batch are converted at a time."""
    values = []
    for _ in range(batches):
        x = data.batch(draw_rows(len(data), size, draws)).cpu()
        values.append(batch_ot_cost(x, size, 1, draws).value)
    return mean(torch.tensor(values, dtype=torch.float64))


def ideal_rows(context: StudyContext, oracle: Oracle, name: str, draws: SharedDraws, levels: Sequence[float]) -> list[MeasurementRow]:
    """c(t) of GC with the ideal flow, and its change at the highest level when the Heun steps are doubled (flow-change)."""
    points, d = oracle.points.shape
    affordable = int(WORK[draws.x.device.type] / (2 * STEPS * (len(levels) + 1) * points * (4 * d + 256)))
    if affordable * OVER < LEAST:
        context.note(f"{name}: GC with the ideal flow is left out: {points:,} points cost too much on {draws.x.device}")
        return []
    pairs = draws.first(max(LEAST, min(len(draws.x), affordable)))
    context.note(f"{name}: c(t) with the ideal flow from {len(pairs.x):,} pairs at {len(levels) - 1} levels")
    new_row = partial(measured_row, data=name, coupling="gc-ideal", label="GC by the ideal flow")
    few, high = pairs.first(2 * LEAST), levels[-1]
    rows = curve_rows(oracle.flow, oracle, pairs, levels, new_row)
    once, twice = (endpoints(partial(oracle.flow, steps=k * STEPS), few.x, few.z, high) for k in (1, 2))
    change = mean(squared_norms(twice - few.z) - squared_norms(once - few.z))
    return [*rows, new_row("flow-change", change, x=high, case=f"{2 * STEPS} steps")]


def curve_rows(f: Function, oracle: Oracle, draws: SharedDraws, levels: Sequence[float], new_row: NewRow) -> list[MeasurementRow]:
    """cost, cost-change (from the level before), cost-data and data-distance of f at each level."""
    rows: dict[str, list[MeasurementRow]] = {"cost": [], "cost-change": [], "cost-data": [], "data-distance": []}
    before = squared_norms(draws.x - draws.z)
    new_row = partial(new_row, protocol={"pairs": len(draws.x), "levels": list(levels), "controls": 3})
    for t in levels:
        if t == 0:  # f is the identity, and c is known exactly
            exact = Estimate(draws.ic, 0.0, len(draws.x))
            for quantity in ("cost", "cost-data"):
                rows[quantity].append(new_row(quantity, exact, x=t))
            continue
        ends = endpoints(f, draws.x, draws.z, t)
        nearest = oracle.data(oracle.posterior(ends, SIGMA_MAX, variance=False).peak).to(ends)  # the nearest point is the peak at any level
        now = squared_norms(ends - draws.z)
        values = {"cost": now, "cost-change": now - before}
        values |= {"cost-data": squared_norms(nearest - draws.z), "data-distance": squared_norms(ends - nearest)}
        for quantity, numbers in values.items():
            negative = quantity == "cost-change"
            rows[quantity].append(new_row(quantity, draws.expectation(numbers), x=t, stated_negative=negative))
        before = now
    return [row for column in rows.values() for row in column]


@torch.no_grad()
def endpoints(f: Function, x: Tensor, z: Tensor, t: float) -> Tensor:
    """f(x + t z, t), computed CHUNK rows at a time."""
    parts = zip(x.split(CHUNK), z.split(CHUNK), strict=True)
    return torch.cat([f(noised(a, b, at_level(a, t)), at_level(a, t)) for a, b in parts])
