"""Theorem 1: R(theta) by (8) and by (11), the ratio of (7) as N grows, and the limits of the gradients (12).

lambda = 1, levels from t_min = 0.002 to T, float64. T = 10 contains almost all of R(theta); T = 80 needs eight times as many intervals for
the same step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from harness.core.consistency import per_row
from harness.store.measurements import MeasurementRow
from harness.theory.discrepancy import Distance, Draw, Theorem1, Times, derivatives, discrepancy, dot, theorem_1
from harness.theory.estimate import Estimate, clustered
from harness.theory.flow import SIGMA_MAX, SIGMA_MIN, Function
from harness.theory.gradients import Gradients, gradient_limits
from harness.theory.studies.common import NewRow, StudyContext, measured_row
from harness.theory.studies.theorems.closed_forms import T as LINEAR_T
from harness.theory.studies.theorems.closed_forms import linear
from harness.theory.studies.theorems.subjects import Effort, Subject, address, draw_pairs, effort, gaussians
from harness.training.trained_runs import TrainedRun

T = 10.0
C = 1.0
"""Pseudo-Huber's c. The limit needs steps of f far below c; the c of training, 0.00054 sqrt(d), would need N in the millions."""
DISTANCES = (Distance("squared"), Distance("norm"), Distance("pseudo-huber", C))
INTERVALS: tuple[int, ...] = (8, 64, 512, 4096)
FEW: tuple[int, ...] = (8, 512, 4096)
"""N for pseudo-Huber."""
FULL: tuple[int, ...] = (4096, 65_536)
"""N up to T = 80."""
GRADIENT_INTERVALS = (8, 64)
MOST_PARAMETERS = 2**18
"""Gradients of larger networks are not measured, because they do not fit into memory."""


def measure(context: StudyContext, subject: Subject) -> list[MeasurementRow]:
    """discrepancy rows of every network under the law of IC, and theorem1 and gradient rows of the networks trained with IC."""
    spent = effort(context.scale)
    rows = [row for network in subject.networks for row in discrepancies(subject, network, spent.batches, spent.rows)]
    for network in subject.networks:
        if network.run.coupling.kind == "independent":
            rows += ratios(subject, network, spent) + gradients(subject, network, spent)
    return rows


def known(context: StudyContext) -> list[MeasurementRow]:
    """theorem1 and gradient rows on Gaussian data for f linear in x."""
    rows: list[MeasurementRow] = []
    parameters = {"a": torch.tensor(1.0, dtype=torch.float64), "b": torch.tensor(0.3, dtype=torch.float64)}
    times = Times(LINEAR_T)
    for name, law in gaussians().items():
        draw, new_row = partial(draw_pairs, law), partial(measured_row, data=name, coupling="ic")
        for distance in DISTANCES:
            batch, draws = 1024 if law.d == 2 else 128, address(name, distance.kind)
            results = theorem_1(linear, law.velocity, draw, times, distance, INTERVALS, draws, batches=16, rows=batch)
            case = f"{_name(distance)}, f = x/(1 + t), T = {LINEAR_T:g}"
            protocol = {"T": LINEAR_T, "f": "x/(1 + t)"}
            rows += ratio_rows(results, protocol, partial(new_row, case=case, label=_kind(distance)))
        for distance in DISTANCES[:2]:
            draws = address(name, "gradient")
            limits = gradient_limits(_curved, parameters, law.velocity, draw, times, distance, (8, 128), draws, batches=16, rows=256)
            rows += gradient_rows(limits, distance, "two parameters", partial(new_row, protocol={"T": LINEAR_T}))
    return rows


def _curved(parameters: Mapping[str, Tensor], x: Tensor, t: Tensor) -> Tensor:
    return parameters["a"] * linear(x, t) + parameters["b"] * torch.tanh(x) * per_row(t / (1 + t), x)


@torch.no_grad()
def as_defined(
    f: Function, velocity: Function, draw: Draw, times: Times, generator: torch.Generator, alpha: float, batches: int, rows: int
) -> Estimate:
    """R(theta) exactly as defined in (8), including the terms of mean zero that `discrepancy` subtracts."""
    values = []
    for _ in range(batches):
        x, z = draw(rows, generator)
        t = times.draw(rows, generator)
        cd, shift = derivatives(f, velocity, x, z, t.to(x))
        gap = dot(cd + shift, cd + shift) ** (alpha / 2) - dot(cd, cd) ** (alpha / 2)
        values.append(gap.double() / times.density(t).to(x.device))
    return clustered(torch.stack(values))


def discrepancies(subject: Subject, network: TrainedRun, batches: int, rows: int) -> list[MeasurementRow]:
    """R(theta) of a network under the law of IC by `as_defined` and `discrepancy`, from independent draws, each the truth of the other."""
    run, velocity, times = network.run, subject.exact.velocity, Times(T, SIGMA_MIN)
    protocol = {"T": T, "t_min": SIGMA_MIN, "lambda": 1, "batches": batches, "rows": rows, "law": "ic"}
    new_row = partial(measured_row, "discrepancy", data=subject.name, coupling=run.coupling, run=run, protocol=protocol)
    measured = []
    for alpha in (2.0, 1.0):
        plain = as_defined(network, velocity, subject.draw, times, address(run.id, "(8)", alpha), alpha, batches, rows)
        draws = address(run.id, "R", alpha)
        reduced = discrepancy(network, velocity, subject.draw, times, draws, alpha, batches=batches, rows=rows)
        case, name = f"alpha = {alpha:g}, T = {T:g}", "(11)" if alpha == 2 else "(8) less terms of mean zero"
        measured.append(new_row(plain, case=f"{case}, (8)", truth=reduced))
        measured.append(new_row(reduced, case=f"{case}, {name}", truth=plain))
    return measured


def _protocol(upper: float, batches: int, rows: int) -> dict[str, object]:
    return {"T": upper, "t_min": SIGMA_MIN, "lambda": 1, "batches": batches, "rows": rows}


def ratios(subject: Subject, network: TrainedRun, spent: Effort) -> list[MeasurementRow]:
    """theorem1 rows of a network for each distance."""
    run, rows = network.run, []
    plan = [(distance, T, FEW if distance.kind == "pseudo-huber" else INTERVALS) for distance in DISTANCES]
    plan += [(distance, SIGMA_MAX, FULL) for distance in DISTANCES[:2]]
    new_row = partial(measured_row, data=subject.name, coupling=run.coupling, run=run)
    for distance, upper, intervals in plan:
        args = network, subject.exact.velocity, subject.draw, Times(upper, SIGMA_MIN), distance, intervals
        results = theorem_1(*args, address(run.id, distance.kind, upper), batches=spent.batches, rows=spent.rows)
        case, label = f"{_name(distance)}, T = {upper:g}", f"{_kind(distance)}, T = {upper:g}"
        rows += ratio_rows(results, _protocol(upper, spent.batches, spent.rows), partial(new_row, case=case, label=label))
    return rows


def _name(distance: Distance) -> str:
    return f"alpha = {distance.alpha:g}, {_kind(distance)}"


def _kind(distance: Distance) -> str:
    return f"pseudo-Huber, c = {distance.c:g}" if distance.kind == "pseudo-huber" else distance.kind


def ratio_rows(results: Sequence[Theorem1], protocol: Mapping[str, object], new_row: NewRow) -> list[MeasurementRow]:
    """The ratio for each N. The largest N has the truth 1, whose error is that of a finite N by Richardson's rule for 1 + O(1/N)."""
    protocol = {**protocol, "intervals": [result.n for result in results]}
    rows = [new_row("theorem1", result.ratio, x=float(result.n), protocol=protocol) for result in results]
    factor = results[-1].n / results[-2].n
    remaining = abs(results[-1].ratio.value - results[-2].ratio.value) / (factor - 1)
    rows[-1] = replace(rows[-1], truth=1.0, truth_se=remaining)
    return rows


def gradients(subject: Subject, network: TrainedRun, spent: Effort) -> list[MeasurementRow]:
    """gradient rows of a network with at most MOST_PARAMETERS for each of the first two distances."""
    run, parameters = network.run, dict(network.network.named_parameters())
    if sum(parameter.numel() for parameter in parameters.values()) > MOST_PARAMETERS:
        return []

    def f(values: Mapping[str, Tensor], x: Tensor, t: Tensor) -> Tensor:
        return torch.func.functional_call(network.network, dict(values), (x, t))

    batches, batch = spent.gradients, spent.rows // 2
    new_row = partial(measured_row, data=subject.name, coupling=run.coupling, run=run, protocol=_protocol(T, batches, batch))
    rows: list[MeasurementRow] = []
    for distance in DISTANCES[:2]:
        args = f, parameters, subject.exact.velocity, subject.draw, Times(T, SIGMA_MIN), distance, GRADIENT_INTERVALS
        limits = gradient_limits(*args, address(run.id, "gradient", distance.kind), batches=batches, rows=batch)
        rows += gradient_rows(limits, distance, f"T = {T:g}", new_row)
    return rows


def gradient_rows(limits: Sequence[Gradients], distance: Distance, case: str, new_row: NewRow) -> list[MeasurementRow]:
    """(12): |N^(alpha-1) grad L - its limit|^2 for CT and CD, which must decrease, and the distance between the limits, 0 for alpha = 2.

    The unit is the value of CT at the smallest N, because the gradient of a trained network may be too small.
    """
    unit, case = limits[0].ct.value, f"{_name(distance)}, {case}"
    new_row = partial(new_row, "gradient")
    rows = []
    for loss in ("CT", "CD"):
        gaps = [(limit.ct if loss == "CT" else limit.cd) / unit for limit in limits]
        rows += [new_row(gap, case=f"{case}, {loss} from its limit", x=float(limit.n)) for limit, gap in zip(limits, gaps, strict=True)]
        change = f"{case}, {loss}, change from N = {limits[0].n} to the last"
        rows.append(new_row(gaps[-1] - gaps[0], case=change, stated_negative=True))
    truth = 0.0 if distance.alpha == 2 else None
    return [*rows, new_row(limits[-1].limit_gap / unit, case=f"{case}, between the limits", truth=truth)]
