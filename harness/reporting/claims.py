"""Judges of the paper's claims about training: each returns the tests of a claim, over training seeds at one scale.

A claim is an entry of paper_values.toml, which names its judge. How tests become a verdict: harness.reporting.verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from harness.config.parts import GeneratorAugmented
from harness.data.catalogue import main_metric
from harness.reporting import claims_theory, paper_values
from harness.reporting.cells import Cell
from harness.reporting.verdicts import ClaimTest, Evidence, Verdict, combine
from harness.statistics.differences import paired


def better(claim: Mapping[str, Any], evidence: Evidence) -> list[ClaimTest]:
    """The final main metric of `left` is below that of each of `right`, on every data set."""
    return [final_test(evidence, data, claim["left"], right) for data in evidence.data(claim) for right in claim["right"]]


def band(claim: Mapping[str, Any], evidence: Evidence) -> list[ClaimTest]:
    """For every mu in [low, high] that was run, and those of `least` in any case: final value and convergence beat IC's and batch-OT's."""
    tests = []
    for data in evidence.data(claim):
        mus = [*claim["least"], *(mu for mu in _mus(evidence.experiment.of(data)) if claim["low"] <= mu <= claim["high"])]
        for key in dict.fromkeys(f"gc-{mu:g}" for mu in mus):
            for other in ("ic", "ot"):
                tests += [final_test(evidence, data, key, other), convergence_test(evidence, data, key, other)]
    return tests


def rebound(claim: Mapping[str, Any], evidence: Evidence) -> list[ClaimTest]:
    """Falls fastest: the first quarter of its curve is below that of each of `least`, and of `others` where they were run.
    Degrades: the end is above the minimum, whose step is chosen on the other seeds."""
    tests = []
    for data in evidence.data(claim):
        model = claim["model"]
        others = [other for other in claim["others"] if evidence.experiment.cell(data, other)]
        tests += [convergence_test(evidence, data, model, other, first=0.25) for other in [*claim["least"], *others]]
        logs = _log_curves(evidence, data, model).dropna()
        difference = None if logs.empty else paired(*_minimum_and_end(logs))
        tests.append(ClaimTest(f"{evidence.title(data)}, {model}, ln at its minimum - ln at the end", difference, f"{model} not run"))
    return tests


def _minimum_and_end(logs: pd.DataFrame) -> tuple[dict[int, float], dict[int, float]]:
    """The value of each seed's curve where the mean of the other seeds (of all, if there is one) is lowest, and at the end."""
    lowest, end = {}, {}
    for seed in logs.columns:
        others = logs.drop(columns=seed) if len(logs.columns) > 1 else logs
        lowest[seed] = float(logs.loc[others.mean(axis=1).idxmin(), seed])
        end[seed] = float(logs[seed].iloc[-1])
    return lowest, end


def frozen(claim: Mapping[str, Any], evidence: Evidence) -> list[ClaimTest]:
    """With every frozen predictor, convergence is faster than IC's; one trained longer gives a better final value than one trained less.
    Only models of the same mu are compared with each other."""
    tests = []
    for data in evidence.data(claim):
        cells = [cell for cell in evidence.experiment.of(data) if cell.run.objective.kind == "ict"]
        steps = {cell.key: n for cell in cells if (n := evidence.cell_values.predictor_steps(cell.run)) is not None}
        pairs = [(a, b) for a in cells for b in cells if a.key in steps and b.key in steps and _mus([a], True) == _mus([b], True)]
        ranked = [(a.key, b.key) for a, b in pairs if steps[a.key] > steps[b.key]]
        if not ranked:
            missing = "frozen predictors of one strength only" if steps else "no frozen predictor was run"
            tests.append(ClaimTest(f"{evidence.title(data)}, better - weaker frozen predictor", None, missing))
        tests += [convergence_test(evidence, data, key, "ic") for key in steps]
        tests += [final_test(evidence, data, *keys) for keys in ranked]
    return tests


def ect(claim: Mapping[str, Any], evidence: Evidence) -> list[ClaimTest]:
    """At each training length that was run, ECT with GC at `mu` beats ECT-IC and every mu that differs from it by more than `far`."""
    cells = [cell for cell in evidence.experiment.cells if cell.run.objective.kind == "ect"]
    best = f"ect-gc-{claim['mu']:g}"
    tests = []
    for data, steps in dict.fromkeys((cell.data, cell.run.train.steps) for cell in cells):
        alike = [cell for cell in cells if (cell.data, cell.run.train.steps) == (data, steps)]
        key_of = {cell.slug: cell.key for cell in reversed(alike)}
        others = ["ect-ic", *(f"ect-gc-{mu:g}" for mu in _mus(alike) if abs(mu - claim["mu"]) > claim["far"])]
        keys = [key_of.get(name, f"{name}, {steps:,} steps") for name in (best, *others)]
        tests += [final_test(evidence, data, keys[0], key) for key in keys[1:]]
    return tests or [ClaimTest(f"{best} - ect-ic", None, "ECT not run")]


def dropout(claim: Mapping[str, Any], evidence: Evidence) -> list[ClaimTest]:
    """GC without dropout beats GC with it, and IC with it beats IC without, where nothing else differs."""
    tests = []
    for data in evidence.data(claim):
        for model in claim["models"]:
            same = [cell for cell in evidence.experiment.of(data) if cell.slug == model and _differs_in_dropout_only(cell)]
            keys = {bool(max(cell.run.network.dropout)): cell.key for cell in same}
            names = {False: f"{model} without dropout", True: f"{model} with dropout"}
            first = model == "ic"  # the one that the claim says is better
            tests.append(final_test(evidence, data, keys.get(first, names[first]), keys.get(not first, names[not first])))
    return tests


def _differs_in_dropout_only(cell: Cell) -> bool:
    return all(difference.startswith("network.dropout=") for difference in cell.differs)


def _mus(cells: Iterable[Cell], ablations: bool = False) -> list[float]:
    """mu of the GC cells; ablations of GC only if asked for."""
    couplings = [cell.run.coupling for cell in cells if isinstance(cell.run.coupling, GeneratorAugmented)]
    return sorted({coupling.mu for coupling in couplings if ablations or coupling == GeneratorAugmented(mu=coupling.mu)})


def final_test(evidence: Evidence, data: str, left: str, right: str) -> ClaimTest:
    """Final values of two cells of a data set, by seed, under one protocol."""
    cells = [cell for key in (left, right) if (cell := evidence.experiment.cell(data, key))]
    column = evidence.cell_values.column(cells, main_metric(data))
    return _test(evidence, data, "", (left, right), [column.by_seed(left), column.by_seed(right)])


def convergence_test(evidence: Evidence, data: str, left: str, right: str, first: float = 1.0) -> ClaimTest:
    """Mean of ln of the main metric over the curve (or its first share), at the steps that both have."""
    curves = [_log_curves(evidence, data, key) for key in (left, right)]
    steps = sorted(set(curves[0].index) & set(curves[1].index))
    steps = steps[: max(1, math.ceil(first * len(steps)))]
    values = [{seed: float(curve.loc[steps, seed].mean()) for seed in curve} if steps else {} for curve in curves]
    part = "" if first == 1 else f" over its first {first:.0%}"
    test = _test(evidence, data, f", mean ln of the curve{part}", (left, right), values)
    difference = test.difference
    return replace(test, difference=replace(difference, relative=math.expm1(difference.mean))) if difference else test


def _log_curves(evidence: Evidence, data: str, key: str) -> pd.DataFrame:
    """ln of the main metric of a cell, by step (rows) and seed (columns); empty if it was not run."""
    cell = evidence.experiment.cell(data, key)
    return evidence.cell_values.curves(cell, main_metric(data)).clip(lower=1e-12).map(math.log) if cell else pd.DataFrame()


def _test(evidence: Evidence, data: str, what: str, keys: Sequence[str], values: Sequence[Mapping[int, float]]) -> ClaimTest:
    """The paired test of two cells' values by seed. It names cells by label where a key is a list of settings or omits the predictor."""
    cells = [evidence.experiment.cell(data, key) for key in keys]
    long = any(cell and (cell.differs or "frozen" in cell.slug or cell.run.objective.kind == "ect") for cell in cells)
    names = [cell.label if long and cell else key for cell, key in zip(cells, keys, strict=True)]
    absent = [name for name, value in zip(names, values, strict=True) if not value]
    missing = f"{' and '.join(absent)} not run" if absent else "no seed in common"
    return ClaimTest(f"{evidence.title(data)}{what}, {' - '.join(names)}", paired(*values), missing)


JUDGES = {function.__name__: function for function in (better, band, rebound, frozen, ect, dropout, *claims_theory.JUDGES)}
"""Judges by the name that paper_values.toml gives them."""


def judge(evidence: Evidence) -> list[Verdict]:
    """The verdicts on the paper's claims at the scale of the evidence."""
    verdicts = []
    for claim in paper_values.paper()["claims"]:
        tests = tuple(JUDGES[claim["judge"]](claim, evidence))
        verdicts.append(Verdict(claim["id"], claim["text"], claim["figure"], evidence.experiment.scale, combine(tests), tests))
    return verdicts
