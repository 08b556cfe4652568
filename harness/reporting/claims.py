"""Judges of the paper's claims about training: each returns the tests of a claim, over training seeds at one scale.

A claim is an entry of paper_values.toml, which names its judge. How tests become a verdict: harness.reporting.verdicts. No test uses the
best value over training, which is the lowest of many noisy ones: values are those of the last step, or means over whole curves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import pandas as pd

from harness.config.parts import GeneratorAugmented
from harness.data.catalogue import main_metric
from harness.reporting import claims_theory, paper_values
from harness.reporting.cells import Cell
from harness.reporting.paper_claims import Band, BestNear, Better, Claim, Rebound, WithAndWithout, claims
from harness.reporting.power import seed_plan
from harness.reporting.tables import percent
from harness.reporting.verdicts import ClaimTest, Effect, Evidence, Outcome, Verdict, combine, with_margin
from harness.stats.differences import paired
from harness.store.records import few_step_name

PaperEffect = tuple[float, str]
"""A relative difference that the paper reports, and where: "FID on CIFAR-10"."""


def better(claim: Better, evidence: Evidence) -> list[ClaimTest]:
    """The final main metric of `left` is below that of each of `right`, on every data set."""
    return [
        final_test(claim, evidence, data, claim.left, right, _paper_effect(claim.experiment, data, claim.left, right))
        for data in evidence.data(claim)
        for right in claim.right
    ]


def band(claim: Band, evidence: Evidence) -> list[ClaimTest]:
    """For every mu in [low, high] that was run, and those of `least` in any case: final value and convergence beat IC's and batch-OT's."""
    tests = []
    for data in evidence.data(claim):
        mus = [*claim.least, *(mu for mu in _mus(evidence.experiment.of(data)) if claim.low <= mu <= claim.high)]
        for key in dict.fromkeys(f"gc-{mu:g}" for mu in mus):
            for other in ("ic", "ot"):
                tests.append(final_test(claim, evidence, data, key, other, _paper_effect("table1", data, key, other)))
                tests.append(convergence_test(claim, evidence, data, key, other))
    return tests


def rebound(claim: Rebound, evidence: Evidence) -> list[ClaimTest]:
    """Falls fastest: the first quarter of its curve is below that of each of `least`, and of `others` where they were run.
    Degrades: the middle half of its curve is below the last quarter."""
    tests = []
    for data in evidence.data(claim):
        model = claim.model
        others = [other for other in claim.others if evidence.experiment.cell(data, other)]
        tests += [convergence_test(claim, evidence, data, model, other, first=0.25) for other in [*claim.least, *others]]
        tests.append(_rebound_test(claim, evidence, data))
    return tests


def _rebound_test(claim: Rebound, evidence: Evidence, data: str) -> ClaimTest:
    """Mean of ln of the main metric over the middle half of training less that over the last quarter, by seed.

    The parts are fixed beforehand. The lowest point of the curve cannot take the place of the middle half: it is chosen by its value, and
    so is below the end even where the true curve is flat. Nor does it help to choose its step on the other seeds: the differences then
    depend on each other, and the t test errs in 10 % of cases for five seeds.
    """
    logs, steps = _log_curves(evidence, data, claim.model), _steps(evidence, data, claim.model)
    middle, last = logs[(logs.index > steps / 4) & (logs.index <= 0.75 * steps)], logs[logs.index > 0.75 * steps]
    difference = None if middle.empty or last.empty else paired(*(part.mean().to_dict() for part in (middle, last)))
    what = f"{evidence.title(data)}, {claim.model}, mean ln of the middle half of the curve - of its last quarter"
    return _in_logs(claim, ClaimTest(what, difference, f"{claim.model} not run", data=data))


def _steps(evidence: Evidence, data: str, key: str) -> int:
    """Training steps of a cell, 0 if there is none."""
    cell = evidence.experiment.cell(data, key)
    return cell.run.train.steps if cell else 0


def frozen(claim: Claim, evidence: Evidence) -> list[ClaimTest]:
    """With every frozen predictor, convergence is faster than IC's; one trained longer gives a better final value than one trained less.
    Only models of the same mu are compared with each other. Other pairs from a frozen predictor, as ReFlow's, are not of this claim."""
    tests = []
    for data in evidence.data(claim):
        cells = [cell for cell in evidence.experiment.of(data) if cell.run.objective.kind == "ict" and not _of_variant(cell)]
        steps = {cell.key: n for cell in cells if (n := evidence.cell_values.predictor_steps(cell.run)) is not None}
        pairs = [(a, b) for a in cells for b in cells if a.key in steps and b.key in steps and _mus([a], True) == _mus([b], True)]
        ranked = [(a.key, b.key) for a, b in pairs if steps[a.key] > steps[b.key]]
        if not ranked:
            missing = "frozen predictors of one strength only" if steps else "no frozen predictor was run"
            tests.append(ClaimTest(f"{evidence.title(data)}, better - weaker frozen predictor", None, missing, data=data))
        tests += [convergence_test(claim, evidence, data, key, "ic") for key in steps]
        tests += [final_test(claim, evidence, data, *keys) for keys in ranked]
    return tests


def _of_variant(cell: Cell) -> bool:
    """Whether the pairs are others than GC's from the same predictor."""
    return isinstance(cell.run.coupling, GeneratorAugmented) and cell.run.coupling.variant != "gc"


def ect(claim: BestNear, evidence: Evidence) -> list[ClaimTest]:
    """With each network and training length that was run, ECT with GC at `mu` beats ECT-IC and every mu that differs from it by more than
    `far`, with each number of `steps` that the two are measured with."""
    cells = [cell for cell in evidence.experiment.cells if cell.run.objective.kind == "ect"]
    best = f"ect-gc-{claim.mu:g}"
    tests = []
    for data, steps, network in dict.fromkeys((cell.data, cell.run.train.steps, cell.run.network.kind) for cell in cells):
        alike = [cell for cell in cells if (cell.data, cell.run.train.steps, cell.run.network.kind) == (data, steps, network)]
        shorter = any(cell.data == data and cell.run.train.steps < steps for cell in cells)
        key_of = {cell.slug: cell.key for cell in reversed(alike)}
        others = ["ect-ic", *(f"ect-gc-{mu:g}" for mu in _mus(alike) if abs(mu - claim.mu) > claim.far)]
        keys = {name: key_of.get(name, f"{name}, {steps:,} steps") for name in (best, *others)}
        for name in others:
            paper = _paper_effect(claim.experiment, data, best, name, "long" if shorter else "short")
            pair = [cell for cell in alike if cell.key in (keys[best], keys[name])]
            most = min((len(cell.run.evaluation.times) + 1 for cell in pair), default=1)
            for count in (count for count in claim.steps if count <= most):
                tests.append(final_test(claim, evidence, data, keys[best], keys[name], paper if count == 1 else None, count))
    return tests or [ClaimTest(f"{best} - ect-ic", None, "ECT not run")]


def dropout(claim: WithAndWithout, evidence: Evidence) -> list[ClaimTest]:
    """GC without dropout beats GC with it, and IC with it beats IC without, where nothing else differs."""
    tests = []
    for data in evidence.data(claim):
        for model in claim.models:
            same = [cell for cell in evidence.experiment.of(data) if cell.slug == model and _differs_in_dropout_only(cell)]
            keys = {bool(max(cell.run.network.dropout)): cell.key for cell in same}
            names = {False: f"{model} without dropout", True: f"{model} with dropout"}
            first = model == "ic"  # the one that the claim says is better
            paper = _paper_effect(claim.experiment, data, "reference", "dropout") if model == "gc-0.5" else None
            pair = (keys.get(first, names[first]), keys.get(not first, names[not first]))
            tests.append(final_test(claim, evidence, data, *pair, paper))
    return tests


def _differs_in_dropout_only(cell: Cell) -> bool:
    return all(difference.startswith("network.dropout=") for difference in cell.differs)


def _mus(cells: Iterable[Cell], ablations: bool = False) -> list[float]:
    """mu of the GC cells; ablations of GC only if asked for."""
    couplings = [cell.run.coupling for cell in cells if isinstance(cell.run.coupling, GeneratorAugmented)]
    return sorted({coupling.mu for coupling in couplings if ablations or coupling == GeneratorAugmented(mu=coupling.mu)})


_VARIANTS = {"gc-0.5": "reference", "gc-0.5-online": "online"}
"""Rows of the paper's Table 3 by the key of the model."""


def _paper_effect(experiment: str, data: str, left: str, right: str, metric: str = "fid") -> PaperEffect | None:
    """What the paper reports for this comparison; on its main data set where it has no numbers for this one. None without numbers."""
    if experiment == "table3":
        left, right = (_VARIANTS.get(key, key) for key in (left, right))
    if (effect := paper_values.effect(experiment, data, left, right, metric)) is None:
        return None
    return effect[0], f"FID on {paper_values.data_name(effect[1])}"


def final_test(
    claim: Claim, evidence: Evidence, data: str, left: str, right: str, paper: PaperEffect | None = None, steps: int = 1
) -> ClaimTest:
    """Final values of two cells of a data set, by seed, under one protocol. paper: the paper's difference between the two.

    steps: the number of sampling steps.
    """
    cells = [cell for key in (left, right) if (cell := evidence.experiment.cell(data, key))]
    column = evidence.cell_values.column(cells, few_step_name(main_metric(data), steps))
    values = [column.by_seed(left), column.by_seed(right)]
    test = _test(evidence, data, "" if steps == 1 else f", {steps} steps", (left, right), values)
    if test.difference is None:
        return test
    level = abs(fmean(values[1][seed] for seed in values[0].keys() & values[1].keys()))
    if paper is not None:
        test = replace(test, effects=(Effect(abs(paper[0]) * level, f"the paper's {percent(paper[0])} ({paper[1]})", of_paper=True),))
    return with_margin(claim, test, claim.margin * level)


def convergence_test(claim: Claim, evidence: Evidence, data: str, left: str, right: str, first: float = 1.0) -> ClaimTest:
    """Mean of ln of the main metric over the curve (or its first share), at the steps that both have."""
    curves = [_log_curves(evidence, data, key) for key in (left, right)]
    steps = sorted(set(curves[0].index) & set(curves[1].index))
    steps = steps[: max(1, math.ceil(first * len(steps)))]
    values = [{seed: float(curve.loc[steps, seed].mean()) for seed in curve} if steps else {} for curve in curves]
    part = "" if first == 1 else f" over its first {first:.0%}"
    return _in_logs(claim, _test(evidence, data, f", mean ln of the curve{part}", (left, right), values))


def _in_logs(claim: Claim, test: ClaimTest) -> ClaimTest:
    """A test of a difference of logarithms, with the relative difference and the margin that go with it."""
    if test.difference is None:
        return test
    difference = replace(test.difference, relative=math.expm1(test.difference.mean))
    return with_margin(claim, replace(test, difference=difference), math.log1p(claim.margin))


def _log_curves(evidence: Evidence, data: str, key: str) -> pd.DataFrame:
    """ln of the main metric of a cell, by step (rows) and seed (columns) of its finished runs; empty if there is none."""
    cell = evidence.experiment.cell(data, key)
    return evidence.cell_values.finished_curves(cell, main_metric(data)).clip(lower=1e-12).map(math.log) if cell else pd.DataFrame()


def _test(evidence: Evidence, data: str, what: str, keys: Sequence[str], values: Sequence[Mapping[int, float]]) -> ClaimTest:
    """The paired test of two cells' values by seed. It names cells by label where a key is a list of settings or omits the predictor."""
    cells = [evidence.experiment.cell(data, key) for key in keys]
    long = any(cell and (cell.differs or "frozen" in cell.slug or cell.run.objective.kind == "ect") for cell in cells)
    names = [cell.label if long and cell else key for cell, key in zip(cells, keys, strict=True)]
    absent = [name for name, value in zip(names, values, strict=True) if not value]
    missing = f"{' and '.join(absent)} not run" if absent else "no seed in common"
    return ClaimTest(f"{evidence.title(data)}{what}, {' - '.join(names)}", paired(*values), missing, data=data)


JUDGES: Mapping[str, Callable[[Any, Evidence], list[ClaimTest]]] = {
    function.__name__: function for function in (better, band, rebound, frozen, ect, dropout, *claims_theory.JUDGES)
}
"""Judges by the name that paper_values.toml gives them."""


def judge(evidence: Evidence) -> list[Verdict]:
    """The verdicts on the paper's claims at the scale of the evidence. Raises HarnessError for a claim that is stated wrongly."""
    verdicts = []
    for claim in claims():
        tests = tuple(JUDGES[claim.judge](claim, evidence))
        outcome = combine(tests)
        plan = seed_plan(claim, tests, evidence) if outcome is Outcome.INCONCLUSIVE else None
        verdicts.append(Verdict(claim.id, claim.text, claim.figure, evidence.experiment.scale, outcome, tests, claim.experiment, plan))
    return verdicts
