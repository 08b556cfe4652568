"""Measurements of one finished run: R(theta), the transport cost of its model and of its pairs, the proxy of its coupling, averages of its
weights of other lengths.

The velocity v_t of IC is exact, by the oracle of the run's data. That of any other coupling comes from a denoiser trained on the same pairs
(experiment figure2), and R(theta) then refers to the pairs of that denoiser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from harness.config.parts import BatchOT, GeneratorAugmented, Independent, coupling_label
from harness.config.run import Run
from harness.config.selection import Selection
from harness.core.randomness import generator
from harness.errors import HarnessError, unknown
from harness.locations import results_root
from harness.store.measurements import MeasurementRow
from harness.theory.discrepancy import Times, derivatives, excess
from harness.theory.estimate import clustered, mean
from harness.theory.flow import SIGMA_MAX, SIGMA_MIN, Function, velocity_of
from harness.theory.oracle import Oracle, draw_rows
from harness.theory.proxy import proxy, proxy_ic
from harness.theory.studies import figure3
from harness.theory.studies.common import StudyContext, StudyPart, check_levels, check_unconditional, measure_parts, measured_row
from harness.theory.studies.ema_lengths import ema_lengths
from harness.theory.studies.run_pairs import RunPairs, dependent_rows, pairs_of
from harness.theory.studies.sample_metrics import sample_metrics
from harness.training import trained_runs
from harness.training.trained_runs import TrainedRun

ALPHAS = (2.0, 1.0)
BATCHES, NUMBERS = 32, 2**14
"""The integral over t: number of batches, and coordinates per batch (256 digits; at least 64 rows)."""
MOST_ROWS = 8192
"""Most rows of all batches together."""


@dataclass(frozen=True)
class PairsWithVelocity:
    """Pairs of a coupling and their velocity field, exact or by a denoiser."""

    pairs: RunPairs
    velocity: Function
    description: str

    @property
    def rows(self) -> int:
        """Rows of one batch."""
        return self.pairs.group or max(64, min(256, NUMBERS // self.pairs.trained.data.dim))

    @property
    def batches(self) -> int:
        return max(4, min(BATCHES, MOST_ROWS // self.rows))


def measure(trained: TrainedRun, what: Sequence[str], context: StudyContext) -> list[MeasurementRow]:
    """The rows of each word in `what`: discrepancy, transport, proxy, ema, metrics.

    Raises HarnessError for no or another word, a run with labels (but for WITH_LABELS), a level outside the run's own, a coupling without a
    denoiser where its velocity is needed, a denoiser where a consistency model is needed, a run without a power-function average where one
    is needed, and data that do not fit into memory.
    """
    if not what:
        raise HarnessError("nothing to measure", where="--what", found="nothing", expected=", ".join(WHAT))
    for word in what:
        if word not in WHAT:
            raise unknown("measurement", word, WHAT, where="--what")
    if not set(what) <= WITH_LABELS:
        check_unconditional(trained.run)
    trained.network.bf16 = False  # measured in float32, whatever precision it was trained in
    parts = [StudyPart(f"{trained.run.id}: {word}", partial(WHAT[word], trained, context)) for word in dict.fromkeys(what)]
    return measure_parts(parts, context)


def discrepancy(trained: TrainedRun, context: StudyContext) -> list[MeasurementRow]:
    """R(theta) of (8) over the run's levels, for each alpha, and its integrand at single levels (discrepancy-at)."""
    run = _consistency(trained, "R(theta)")
    law = with_velocity(trained, context)
    times = Times(min(SIGMA_MAX, run.noise.sigma_max), max(SIGMA_MIN, run.noise.sigma_min))
    size = f"{law.batches} batches of {law.rows} {law.description}"
    context.note(f"{run.id}: R(theta) with lambda = 1 over t = {times.t_min:g} ... {times.T:g}, {size}")
    draws = generator(run.seed, "measure", 0)
    protocol = {"lambda": 1, "t": [times.t_min, times.T], "batches": law.batches, "rows": law.rows, "pairs": law.description}
    label = coupling_label(run.coupling)
    new_row = partial(measured_row, data=run.data.name, coupling=run.coupling, label=label, run=run, protocol=protocol)
    values: dict[float, list[Tensor]] = {alpha: [] for alpha in ALPHAS}
    for _ in range(law.batches):
        t = times.draw(law.rows, draws)
        for alpha, integrand in _integrands(trained, law, t, draws).items():
            values[alpha].append(integrand / times.density(t))
    rows = [new_row("discrepancy", clustered(torch.stack(v)), case=f"alpha = {alpha:g}") for alpha, v in values.items()]
    for level in levels_of(run, context):
        t = torch.full((law.rows,), level, dtype=torch.float64)
        batches = [_integrands(trained, law, t, draws) for _ in range(max(2, law.batches // 8))]
        for alpha in ALPHAS:
            integrands = torch.stack([batch[alpha] for batch in batches])
            estimate = clustered(integrands) if law.pairs.group else mean(integrands)
            rows.append(new_row("discrepancy-at", estimate, case=f"alpha = {alpha:g}", x=level))
    return sorted(rows, key=lambda row: (row.quantity, row.case))


@torch.no_grad()
def _integrands(f: TrainedRun, law: PairsWithVelocity, t: Tensor, draws: torch.Generator) -> dict[float, Tensor]:
    """Draws of E[|d_CT f|^alpha - |d_CD f|^alpha] at the levels t (n,), for each alpha from the same pairs; (n,) float64."""
    x, z = law.pairs.draw(t, draws)
    cd, shift = derivatives(f, law.velocity, x, z, t.to(x))
    return {alpha: excess(cd, shift, alpha).double().cpu() for alpha in ALPHAS}


def transport(trained: TrainedRun, context: StudyContext) -> list[MeasurementRow]:
    """c(t) with the run's own network, as in Figure 3, and the cost of the pairs that it trained on; its truth is that of the last step."""
    run = _consistency(trained, "c(t)")
    oracle, draws = Oracle(trained.data.rows), figure3.shared_draws(trained.data)
    levels = [0.0, *levels_of(run, context)]
    context.note(f"{run.id}: c(t) at {len(levels) - 1} levels from {len(draws.x):,} pairs, and the cost of its own pairs")
    ic = partial(measured_row, data=run.data.name, coupling="ic", label="IC")
    *curves, pair_cost = figure3.trained_rows(context, trained, oracle, draws, levels)
    recorded = [record for record in trained.folder.records(on_damage=context.note) if record["metric"] == "pair_cost"]
    if recorded and getattr(run.coupling, "predictor", "") != "online":  # whose last weights are not stored
        last = max(recorded, key=lambda record: record["step"])
        pair_cost = replace(pair_cost, truth=last["value"], truth_se=last["se"] or None)
    return [ic("cost", draws.ic), ic("cost-data", draws.ic), *curves, pair_cost]


def proxy_rows(trained: TrainedRun, context: StudyContext) -> list[MeasurementRow]:
    """Rtil_t of the run's coupling: exactly for IC, by the denoiser of its pairs for other couplings, and both for a denoiser of IC."""
    run = trained.run
    levels, exact, rows = levels_of(run, context), {}, []
    new_row = partial(measured_row, "rtil", data=run.data.name, coupling=run.coupling)
    if isinstance(run.coupling, Independent):
        oracle = Oracle(trained.data.rows)
        points, d = oracle.points.shape
        n = max(64, min(points, MOST_ROWS, int(figure3.WORK[oracle.device.type] / (2 * len(levels) * points * (4 * d + 32)))))
        x = oracle.data(draw_rows(points, n, generator(run.seed, "measure", 1)))
        context.note(f"{run.id}: Rtil_t of IC exactly, from {n:,} of {points:,} data points with 2 noises each")
        draws = generator(run.seed, "measure", 2)
        exact = {t: proxy_ic(oracle, x, t, draws, all_data=n == points) for t in levels}
        protocol = {"by": "oracle", "rows": n}
        rows += [new_row(value, case="exact", label="IC, exact", protocol=protocol, x=t) for t, value in exact.items()]
        if run.objective.kind != "denoiser":
            return rows
    denoiser = trained if run.objective.kind == "denoiser" else denoiser_of(run, context)
    law = with_denoiser(denoiser, context)
    context.note(f"{run.id}: Rtil_t from {law.batches} batches of {law.rows} {law.description}")
    n, data, pairs = law.batches * law.rows, trained.data, law.pairs
    x = data.batch(draw_rows(len(data), n, generator(run.seed, "measure", 3)))
    z = torch.randn(x.shape, generator=generator(run.seed, "measure", 4)).to(x)
    new_row = partial(new_row, label=coupling_label(run.coupling), run=run, protocol={"by": "denoiser", "pairs": n, "of": law.description})
    for t in levels:
        draws, function = generator(run.seed, "measure", 5), pairs.coupling.function
        estimate = proxy(function, denoiser, x, z, t, draws, pairs.f, batch=law.rows, dependent=pairs.group is not None)
        rows.append(new_row(estimate, x=t, truth=exact.get(t)))
    return rows


WHAT: dict[str, Callable[[TrainedRun, StudyContext], list[MeasurementRow]]] = {
    "discrepancy": discrepancy,
    "transport": transport,
    "proxy": proxy_rows,
    "ema": ema_lengths,
    "metrics": sample_metrics,
}
WITH_LABELS = {"ema", "metrics"}
"""What can be measured of conditional models."""


def _consistency(trained: TrainedRun, quantity: str) -> Run:
    """The run of a consistency model. Raises HarnessError for a denoiser."""
    if trained.run.objective.kind == "denoiser":
        what, kind = f"a denoiser is not a consistency function and has no {quantity}", "objective.kind = denoiser"
        raise HarnessError(what, where=trained.run.id, found=kind, expected="a consistency model", nearest="--what proxy")
    return trained.run


def levels_of(run: Run, context: StudyContext) -> list[float]:
    """The levels of the context, or those of Figure 3, within the run's own. Raises HarnessError for a level outside them."""
    low, high = max(SIGMA_MIN, run.noise.sigma_min), min(SIGMA_MAX, run.noise.sigma_max)
    check_levels(context.levels or (), low, high)
    return sorted(set(context.levels or (t for t in figure3.LEVELS if low <= t <= high)))


def with_velocity(trained: TrainedRun, context: StudyContext) -> PairsWithVelocity:
    """Pairs of a run's coupling with their velocity: the exact one for IC, else that of a denoiser, see `denoiser_of`."""
    if isinstance(trained.run.coupling, Independent):
        oracle = Oracle(trained.data.rows)
        description = f"pairs of IC, v exact on {len(oracle):,} data"
        return PairsWithVelocity(pairs_of(trained, context.store), oracle.velocity, description)
    return with_denoiser(denoiser_of(trained.run, context), context)


def with_denoiser(denoiser: TrainedRun, context: StudyContext) -> PairsWithVelocity:
    """Pairs of a denoiser's coupling with the velocity of the denoiser."""
    description = f"pairs of {denoiser.run.id}, v by that denoiser"
    return PairsWithVelocity(pairs_of(denoiser, context.store), velocity_of(denoiser), description)


def denoiser_of(run: Run, context: StudyContext) -> TrainedRun:
    """A finished denoiser of a run's pairs, preferably of the run's seed. Raises HarnessError when there is none."""
    finished = [folder for folder in context.store.folders() if "-denoiser-" in folder.id and folder.result() is not None]
    denoisers = [(trained_runs.run_of(folder), folder) for folder in finished]
    real = [(other, folder) for other, folder in denoisers if not other.rehearsal]
    candidates = [(other.seed != run.seed, other.seed, folder) for other, folder in real if _same_pairs(run, other)]
    if not candidates:
        root = context.store.root
        results = None if root.resolve() == results_root().resolve() else root
        what = f"v_t of {coupling_label(run.coupling)} is known only from a denoiser of its pairs"
        command = Selection("figure2", run.scale, (run.seed,), results=results).command("harness sweep")
        raise HarnessError(what, where=run.id, found="no finished denoiser", expected="a denoiser of figure2", nearest=command)
    return trained_runs.load(min(candidates, key=lambda candidate: candidate[:2])[2], context.device)


def _same_pairs(run: Run, other: Run) -> bool:
    """Whether `other` is a denoiser of the pairs that the run's coupling makes."""
    if (run.data, other.objective.kind) != (other.data, "denoiser"):
        return False
    ours, theirs = run.coupling, other.coupling
    if isinstance(ours, GeneratorAugmented):
        return isinstance(theirs, GeneratorAugmented) and theirs.frozen == run.id and theirs.variant == ours.variant
    if isinstance(ours, BatchOT) and isinstance(theirs, BatchOT):
        return (dependent_rows(run), run.protocol.ot_cost) == (dependent_rows(other), other.protocol.ot_cost)
    return ours == theirs and dependent_rows(run) == dependent_rows(other)
