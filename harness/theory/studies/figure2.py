"""Figure 2: the proxy Rtil_t of every coupling, by the denoiser trained on its pairs, and exactly where that is possible.

By a denoiser (case ""), as in the paper, the value is too large by E|D - E[endpoint | x_t]|^2/t^2. The exact values are those of IC by the
oracle (case "exact") and of GC by the ideal flow (gc-ideal). IC has both, which measures the bias of the estimate (rtil-bias).

At low t, the exact value on finite data vanishes, while a network of moderate size has that of a smooth law. Since f(x, sigma_0) = x, GC
equals IC at sigma_0, while the noise of batch-OT still depends on its data; so the order GC < OT cannot hold down to sigma_0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from harness.config.identity import NOT_IDENTITY
from harness.config.parts import BatchOT, GeneratorAugmented, Independent, coupling_label, coupling_slug
from harness.config.run import Run
from harness.core import couplings
from harness.core.randomness import generator
from harness.data.datasets import Dataset
from harness.errors import HarnessError
from harness.store.measurements import MeasurementRow
from harness.theory.estimate import Estimate, mean
from harness.theory.flow import Function, at_level, noised, squared_norms
from harness.theory.oracle import Oracle, draw_rows
from harness.theory.proxy import noise_like, proxy, proxy_ic
from harness.theory.proxy_gc import proxy_gc
from harness.theory.studies.common import StudyContext, StudyPart, measure_parts, measured_row, runs_by_data
from harness.theory.studies.run_pairs import dependent_rows, frozen_predictor_run
from harness.training import user_couplings
from harness.training.trained_runs import TrainedRun

LEVELS = (0.002, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0)
ROWS, POOLS = 8192, 16
"""Pairs at each level: ROWS, or POOLS assignments of the largest batch-OT if that is more."""
EXACT_ROWS = 32_768
"""Noises at each level for IC by the oracle; with them, Rtil of the 1,797 digits at t = 1 has an error of 0.014."""
BATCH = 512
"""Rows per call of a network."""
IDEAL_ROWS, PILOT_ROWS, PROPOSALS, LEAST_DRAWS = 256, 8, 64, 5.0
"""GC with the ideal flow: most rows, rows of the pilot run, proposals per row, and the fewest posterior draws that a level needs."""
IDEAL_WORK = {"toy": 6e6, "cpu": 6e7, "cuda": 5e10}
"""Most rows x points x (dimensions + 80) per level, by device or for the toy scale; one CPU core takes 3 to 5 s for 1e7."""


@dataclass(frozen=True)
class CommonPairs:
    """What all couplings of a data set are measured on, at every t: data rows x, noise z like x, and the oracle of the data."""

    data: Dataset
    x: Tensor
    z: Tensor
    oracle: Oracle


def measure(context: StudyContext) -> list[MeasurementRow]:
    """Rows rtil and rtil-bias at LEVELS, or at the levels of the context.

    Raises HarnessError for a run that is not finished or has labels, and when no run is a denoiser.
    """
    runs = [run for run in context.runs if run.objective.kind == "denoiser"]
    if not runs:
        what, expected = "the proxy of a coupling needs a denoiser of its pairs", "runs with objective.kind = denoiser"
        raise HarnessError(what, where="figure2", found="no denoiser", expected=expected, nearest=context.sweep_command)
    return measure_parts([part for group in runs_by_data(runs) for part in _parts(context, group)], context)


def _parts(context: StudyContext, runs: Sequence[Run]) -> list[StudyPart]:
    """The parts of one data set: IC exactly, the coupling of each run by its denoiser, and GC by the ideal flow."""
    levels = sorted(context.levels or LEVELS)
    denoisers = [context.trained(run) for run in runs]
    name, pairs = runs[0].data.name, common_pairs(denoisers[0].data, runs)
    exact: dict[float, Estimate] = {}

    def exactly() -> list[MeasurementRow]:
        exact.update({t: exact_ic(pairs, t, address) for address, t in enumerate(levels)})
        protocol = {"by": "oracle", "rows": EXACT_ROWS}
        new_row = partial(measured_row, data=name, coupling="ic", case="exact", label="IC, exact", protocol=protocol)
        return [new_row("rtil", value, x=t) for t, value in exact.items()]

    parts = [StudyPart(f"{name}: Rtil of IC exactly, at {len(levels)} levels", exactly)]
    for run, denoiser in zip(runs, denoisers, strict=True):
        title = f"{name}: Rtil by the denoiser {run.slug}, {len(pairs.x):,} pairs at each level"
        parts.append(StudyPart(title, partial(by_denoiser, context, run, denoiser, pairs, exact)))
    return [*parts, StudyPart(f"{name}: Rtil of GC with the ideal flow", partial(ideal, context, pairs, levels))]


def common_pairs(data: Dataset, runs: Sequence[Run]) -> CommonPairs:
    """Data rows, whose counts differ by at most 1, with one noise each."""
    n = max(ROWS, *(POOLS * (dependent_rows(run) or 1) for run in runs))
    x = data.batch(draw_rows(len(data), n, generator(0, "measure", 0)))
    return CommonPairs(data, x, noise_like(x, generator(0, "measure", 1)), Oracle(data.rows))


def exact_ic(pairs: CommonPairs, t: float, address: int) -> Estimate:
    """Rtil_t of IC by the oracle, over the entire data set with EXACT_ROWS noises in all, or over the common rows if it has more rows."""
    total, draws = len(pairs.oracle), generator(0, "measure", 2 + address)
    if total > EXACT_ROWS:
        return proxy_ic(pairs.oracle, pairs.x, t, draws)
    return proxy_ic(pairs.oracle, pairs.oracle.data(), t, draws, max(2, EXACT_ROWS // total), all_data=True)


def by_denoiser(
    context: StudyContext, run: Run, denoiser: Function, pairs: CommonPairs, exact: dict[float, Estimate]
) -> list[MeasurementRow]:
    """The proxy of a run's coupling by the run's denoiser at each t of `exact`; for IC with the exact value as truth, and its bias."""
    coupling, group = user_couplings.build(run), dependent_rows(run)
    x, z, function = pairs.x, pairs.z, coupling.function
    if coupling.ahead and group:  # these pairs are the same at every level
        batches = zip(x.split(group), z.split(group), strict=True)
        addressed = [{"generator": generator(run.seed, "mask", number)} if coupling.draws else {} for number in range(-(-len(x) // group))]
        z = torch.cat([function(a, b, **draws)[1] for (a, b), draws in zip(batches, addressed, strict=True)])
        function = couplings.independent
    frozen = frozen_predictor_run(run, context.store, context.device) if coupling.predictor == "frozen" else None
    key, label = named(run, frozen)
    new_row = partial(measured_row, data=run.data.name, run=run, coupling=key, label=label, protocol=protocol_of(run, len(x)))
    independent = isinstance(run.coupling, Independent)
    rows = []
    for address, (t, truth) in enumerate(exact.items()):
        draws = generator(run.seed, "measure", 1000 + address)
        estimate = proxy(function, denoiser, x, z, t, draws, frozen or denoiser, batch=group or BATCH, dependent=group is not None)
        rows.append(new_row("rtil", estimate, truth=truth if independent else None, x=t))
        if independent:
            above, difference = bias(denoiser, pairs, t)
            rows.append(new_row("rtil-bias", above, truth=difference, x=t))
            share = f" ({above.value / truth.value:.1%})" if truth.value > 1e-3 * above.value else ""
            context.note(f"  t = {t:g}: Rtil {estimate.value:.4g}, exact {truth.value:.4g}; bias {above.value:.3g}{share}")
    return rows


@torch.no_grad()
def bias(denoiser: Function, pairs: CommonPairs, t: float) -> tuple[Estimate, Estimate]:
    """The bias E|D - D*|^2/t^2 of IC's proxy by this denoiser, and E|x* - D|^2/t^2 - E|x* - D*|^2/t^2, which is equal if D* is exact."""
    parts = []
    for x, z in zip(pairs.x.split(BATCH), pairs.z.split(BATCH), strict=True):
        level = at_level(x, t)
        x_t = noised(x, z, level)
        estimated, exact = denoiser(x_t, level), pairs.oracle.denoise(x_t, level)
        squares = [squared_norms(gap.double()) for gap in (estimated - exact, x - estimated, x - exact)]
        parts.append(torch.stack([squares[0], squares[1] - squares[2]]) / t**2)
    above, difference = torch.cat(parts, 1)
    return mean(above), mean(difference)


def named(run: Run, frozen: TrainedRun | None) -> tuple[str, str]:
    """(key, label) of a run's coupling: batch-OT by its size, and GC by the model that predicts its endpoints."""
    coupling = run.coupling
    if isinstance(coupling, BatchOT):
        return f"ot-{dependent_rows(run)}", f"batch-OT ({dependent_rows(run)})"
    if frozen and isinstance(coupling, GeneratorAugmented) and coupling.variant == "gc":
        predictor = frozen.run.coupling
        coupling = predictor if isinstance(predictor, GeneratorAugmented) else coupling
    return coupling_slug(coupling), coupling_label(coupling)


def protocol_of(run: Run, rows: int) -> dict[str, Any]:
    """How an estimate by a denoiser was made, apart from the coupling: what must be equal to compare couplings."""
    training = {key: value for key, value in run.to_dict().items() if key not in (*NOT_IDENTITY, "coupling", "seed", "evaluation")}
    return {"by": "denoiser", "rows": rows, "training": training}


def ideal(context: StudyContext, pairs: CommonPairs, levels: Sequence[float]) -> list[MeasurementRow]:
    """GC with the ideal flow, from the highest level downward, as long as there are enough posterior draws.

    A level where at most one of the few rows with an uncertain endpoint was drawn (se as large as the value) is left out.
    """
    name, (points, d) = pairs.data.name, pairs.oracle.points.shape
    most = IDEAL_WORK["toy" if context.scale == "toy" else context.device.type]
    rows = min(IDEAL_ROWS, int(most / (points * (d + 80))))
    if rows < 2 * PILOT_ROWS:
        context.note(f"{name}: GC with the ideal flow is left out: {points:,} points cost too much on {context.device}")
        return []
    protocol = {"by": "ideal flow", "rows": rows, "proposals": PROPOSALS}
    new_row = partial(measured_row, "rtil", data=name, coupling="gc-ideal", label="GC, ideal flow", protocol=protocol)
    measured = []
    for address, t in enumerate(sorted(levels, reverse=True)):
        draws = generator(0, "measure", 2000 + address)
        drawn = draw_rows(points, rows, draws)
        pilot = proxy_gc(pairs.oracle, drawn[:PILOT_ROWS], t, draws, PROPOSALS)
        if pilot.draws < LEAST_DRAWS:
            context.note(f"{name}: GC with the ideal flow stops at t = {t:g}: {pilot.draws:.1f} posterior draws per row are too few")
            break
        value = proxy_gc(pairs.oracle, drawn, t, draws, PROPOSALS).value
        certain = value.value > 1.25 * value.se > 0
        context.note(f"{name}: GC with the ideal flow, t = {t:g}: {value}{'' if certain else ', left out'}")
        if certain:
            measured.append(new_row(value, x=t))
    return measured
