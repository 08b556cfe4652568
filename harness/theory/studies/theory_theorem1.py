"""Theorem 1: R(theta) by (8) and by (11), the ratio of (7) as N grows, and the gradients' limits (12).

lambda = 1 throughout, on t_min = 0.002 to T, float64. T = 10 holds nearly all of R(theta), whose integrand falls steeply with t beyond, and
T = 80 takes eight times the N for the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from harness.core.consistency import per_row
from harness.theory.discrepancy import Distance, Draw, Theorem1, Times, derivatives, discrepancy, dot, theorem_1
from harness.theory.estimate import Estimate, clustered
from harness.theory.flow import SIGMA_MAX, SIGMA_MIN, Function
from harness.theory.gradients import Gradients, gradient_limits
from harness.theory.studies.common import Row, Setting, row, said_negative
from harness.theory.studies.theory_closed_forms import T as LINEAR_T
from harness.theory.studies.theory_closed_forms import linear
from harness.theory.studies.theory_subjects import Subject, address, effort, gaussians, pairs_of
from harness.training.trained_runs import TrainedRun

T = 10.0
C = 1.0
"""Pseudo-Huber's c: the limit needs steps of f far below c, and with the training's c of 0.00054 sqrt(d) that takes N in the millions."""
DISTANCES = (Distance("squared"), Distance("norm"), Distance("pseudo-huber", C))
INTERVALS = (8, 64, 512, 4096)
FEW = (8, 512, 4096)
FULL = (4096, 65_536)
"""N up to T = 80, whose steps at the last are those of 8,192 intervals up to 10."""
GRADIENT_INTERVALS = (8, 64)
MOST_PARAMETERS = 2**18
"""Beyond these a network's gradients are too many to keep a batch of them."""


def measure(setting: Setting, subject: Subject) -> list[Row]:
    """discrepancy of every network with IC's law, theorem1 and gradient rows of those trained on IC."""
    spent = effort(setting.scale)
    made: list[Row] = []
    for found in subject.networks:
        made += discrepancies(subject, found, spent.batches, spent.rows)
    for found in subject.networks:
        if found.run.coupling.kind == "independent":
            made += _ratios(subject, found, spent.batches, spent.rows)
            made += _gradients(subject, found, spent.gradients, spent.rows // 2)
    return made


def known(setting: Setting) -> list[Row]:
    """theorem1 and gradient rows on Gaussian data, whose velocity is a formula, for f linear in x."""
    made: list[Row] = []
    parameters = {"a": torch.tensor(1.0, dtype=torch.float64), "b": torch.tensor(0.3, dtype=torch.float64)}
    for name, law in gaussians().items():
        for distance in DISTANCES:
            args = linear, law.velocity, pairs_of(law), Times(LINEAR_T), distance, INTERVALS, address(name, distance.kind)
            told = f"{_name(distance)}, f = x/(1 + t), T = {LINEAR_T:g}"
            found = theorem_1(*args, batches=16, rows=1024 if law.d == 2 else 128)
            made += _rows(name, found, told, {"T": LINEAR_T, "f": "x/(1 + t)"}, coupling="ic", label=_kind(distance))
        for distance in DISTANCES[:2]:
            args = _curved, parameters, law.velocity, pairs_of(law), Times(LINEAR_T), distance, (8, 128), address(name, "gradient")
            made += _gradient_rows(name, gradient_limits(*args, batches=16, rows=256), distance, "two parameters", {"T": LINEAR_T})
    return made


def _curved(parameters: Mapping[str, Tensor], x: Tensor, t: Tensor) -> Tensor:
    return parameters["a"] * linear(x, t) + parameters["b"] * torch.tanh(x) * per_row(t / (1 + t), x)


@torch.no_grad()
def as_defined(
    f: Function, velocity: Function, draw: Draw, times: Times, generator: torch.Generator, alpha: float, batches: int, rows: int
) -> Estimate:
    """R(theta) as (8) has it, |d_CT f|^alpha - |d_CD f|^alpha: the terms of mean zero, which `discrepancy` takes off, stay in."""
    values = []
    for _ in range(batches):
        x, z = draw(rows, generator)
        t = times.draw(rows, generator)
        cd, shift = derivatives(f, velocity, x, z, t.to(x))
        gap = dot(cd + shift, cd + shift) ** (alpha / 2) - dot(cd, cd) ** (alpha / 2)
        values.append(gap.double() / times.density(t).to(x.device))
    return clustered(torch.stack(values))


def discrepancies(subject: Subject, found: TrainedRun, batches: int, rows: int) -> list[Row]:
    """R(theta) of a network under IC's law, twice from independent draws: as (8) has it, and with its terms of mean zero taken off,
    which is (11) for alpha = 2. Each is the other's truth."""
    run, times, made = found.run, Times(T, SIGMA_MIN), []
    for alpha in (2.0, 1.0):
        name = "(11)" if alpha == 2 else "(8) less terms of mean zero"
        args = found, subject.exact.velocity, subject.draw, times
        plain = as_defined(*args, address(run.id, "(8)", alpha), alpha, batches, rows)
        reduced = discrepancy(*args, address(run.id, "R", alpha), alpha, batches=batches, rows=rows)
        told = {"T": T, "t_min": SIGMA_MIN, "lambda": 1, "batches": batches, "rows": rows, "law": "ic"}
        rest = {"coupling": run.coupling, "run": run, "protocol": told}
        made.append(row("discrepancy", subject.name, plain, case=f"alpha = {alpha:g}, T = {T:g}, (8)", truth=reduced, **rest))
        made.append(row("discrepancy", subject.name, reduced, case=f"alpha = {alpha:g}, T = {T:g}, {name}", truth=plain, **rest))
    return made


def _ratios(subject: Subject, found: TrainedRun, batches: int, rows: int) -> list[Row]:
    made: list[Row] = []
    rest = {"coupling": found.run.coupling, "run": found.run}
    plan = [(distance, T, FEW if distance.kind == "pseudo-huber" else INTERVALS) for distance in DISTANCES]
    plan += [(distance, SIGMA_MAX, FULL) for distance in DISTANCES[:2]]
    for distance, upper, intervals in plan:
        args = found, subject.exact.velocity, subject.draw, Times(upper, SIGMA_MIN), distance, intervals
        rows_of = theorem_1(*args, address(found.run.id, distance.kind, upper), batches=batches, rows=rows)
        told = {"T": upper, "t_min": SIGMA_MIN, "lambda": 1, "batches": batches, "rows": rows}
        made += _rows(subject.name, rows_of, f"{_name(distance)}, T = {upper:g}", told, label=f"{_kind(distance)}, T = {upper:g}", **rest)
    return made


def _name(distance: Distance) -> str:
    return f"alpha = {distance.alpha:g}, {_kind(distance)}"


def _kind(distance: Distance) -> str:
    return f"pseudo-Huber, c = {distance.c:g}" if distance.kind == "pseudo-huber" else distance.kind


def _rows(name: str, found: Sequence[Theorem1], case: str, told: dict, **rest: object) -> list[Row]:
    """The largest N beside 1, which a finite N meets up to the error that Richardson's rule leaves: the change over the last factor k
    in N, divided by k - 1, as the ratio is 1 + O(1/N)."""
    told = told | {"intervals": [one.n for one in found]}
    made = [row("theorem1", name, one.ratio, x=float(one.n), case=case, protocol=told, **rest) for one in found]
    factor = found[-1].n / found[-2].n
    left = abs(found[-1].ratio.value - found[-2].ratio.value) / (factor - 1)
    made[-1] |= {"truth": 1.0, "truth_se": left}
    return made


def _gradients(subject: Subject, found: TrainedRun, batches: int, rows: int) -> list[Row]:
    parameters = dict(found.network.named_parameters())
    if sum(p.numel() for p in parameters.values()) > MOST_PARAMETERS:
        return []

    def f(values: Mapping[str, Tensor], x: Tensor, t: Tensor) -> Tensor:
        return torch.func.functional_call(found.network, dict(values), (x, t))

    made: list[Row] = []
    for distance in DISTANCES[:2]:
        args = f, parameters, subject.exact.velocity, subject.draw, Times(T, SIGMA_MIN), distance, GRADIENT_INTERVALS
        rows_of = gradient_limits(*args, address(found.run.id, "gradient", distance.kind), batches=batches, rows=rows)
        told = {"T": T, "t_min": SIGMA_MIN, "lambda": 1, "batches": batches, "rows": rows}
        made += _gradient_rows(subject.name, rows_of, distance, f"T = {T:g}", told, coupling=found.run.coupling, run=found.run)
    return made


def _gradient_rows(name: str, found: Sequence[Gradients], distance: Distance, case: str, told: dict, **rest: object) -> list[Row]:
    """(12): |N^(alpha-1) grad L - its limit|^2 for CT and CD, which must fall, and the distance of the limits, 0 for alpha = 2 alone.
    In units of CT's at the least N: a trained network's own gradient may be too small to be one."""
    made, unit = [], found[0].ct.value
    label = f"{_name(distance)}, {case}"
    rest = {"coupling": "ic", "protocol": told} | rest
    parts: dict[str, Callable[[Gradients], Estimate]] = {"CT": lambda one: one.ct / unit, "CD": lambda one: one.cd / unit}
    for who, part in parts.items():
        for one in found:
            made.append(row("gradient", name, part(one), case=f"{label}, {who} from its limit", x=float(one.n), **rest))
        change = part(found[-1]) - part(found[0])
        made.append(said_negative(row("gradient", name, change, case=f"{label}, {who}, change from N = {found[0].n} to the last", **rest)))
    equal = {"truth": 0.0} if distance.alpha == 2 else {}
    return [*made, row("gradient", name, found[-1].limit_gap / unit, case=f"{label}, between the limits", **equal, **rest)]
