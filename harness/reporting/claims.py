"""The paper's claims judged from records: each by a stated test over training seeds, at one scale. See harness.reporting.verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from harness.config.run import GeneratorAugmented
from harness.reporting import claims_theory, paper_values
from harness.reporting.cells import Cell
from harness.reporting.statistics import paired
from harness.reporting.verdicts import Check, Evidence, Verdict, combine

Judge = Callable[[Mapping[str, Any], Evidence], list[Check]]


def better(claim: Mapping[str, Any], evidence: Evidence) -> list[Check]:
    """The final main metric of `left` lies below that of each of `right`, on every data set."""
    return [final_test(evidence, data, claim["left"], right) for data in evidence.data(claim) for right in claim["right"]]


def band(claim: Mapping[str, Any], evidence: Evidence) -> list[Check]:
    """For every mu at hand in [low, high], and at least those of `least`: final value and convergence beat IC's and batch-OT's."""
    tests = []
    for data in evidence.data(claim):
        there = [f"gc-{mu:g}" for mu in _mu(evidence.study.of(data)) if claim["low"] <= mu <= claim["high"]]
        for key in dict.fromkeys([*(f"gc-{mu:g}" for mu in claim["least"]), *there]):
            for other in ("ic", "ot"):
                tests += [final_test(evidence, data, key, other), convergence_test(evidence, data, key, other)]
    return tests


def rebound(claim: Mapping[str, Any], evidence: Evidence) -> list[Check]:
    """Falls fastest: over the first quarter of its curve below each of `least`, and of `others` where they are at hand. Degrades: the end
    lies above the minimum, whose step is chosen on the other seeds."""
    tests = []
    for data in evidence.data(claim):
        main, model = evidence.main(data), claim["model"]
        others = [other for other in claim["others"] if evidence.study.cell(data, other)]
        tests += [convergence_test(evidence, data, model, other, first=0.25) for other in [*claim["least"], *others]]
        cell = evidence.study.cell(data, model)
        curves = evidence.numbers.curves(cell, main) if cell else pd.DataFrame()
        found = paired(*_minimum_and_end(curves)) if not curves.empty else None
        tests.append(Check(f"{evidence.title(data)}, {model}, ln at its minimum - ln at the end", found, f"{model} not run"))
    return tests


def _minimum_and_end(curves: pd.DataFrame) -> tuple[dict[int, float], dict[int, float]]:
    """ln of each seed's curve where the mean of the other seeds (of all, if there is one) is lowest, and at the end."""
    logs = curves.dropna().clip(lower=1e-12).map(math.log)
    lowest, end = {}, {}
    for seed in logs.columns:
        others = logs.drop(columns=seed) if len(logs.columns) > 1 else logs
        lowest[seed] = float(logs.loc[others.mean(axis=1).idxmin(), seed])
        end[seed] = float(logs[seed].iloc[-1])
    return lowest, end


def frozen(claim: Mapping[str, Any], evidence: Evidence) -> list[Check]:
    """Every frozen predictor converges faster than IC; one trained longer gives a better final value than each trained less. Models of
    another mu are compared among themselves."""
    tests = []
    for data in evidence.data(claim):
        cells = [cell for cell in evidence.study.of(data) if getattr(cell.run.coupling, "predictor", "") == "frozen"]
        cells = [cell for cell in cells if cell.run.objective.kind == "ict"]
        pairs = [(a, b) for a in cells for b in cells if a.run.coupling.mu == b.run.coupling.mu]
        ranked = [(a, b) for a, b in pairs if _strength(a, evidence) > _strength(b, evidence)]
        if not ranked:
            missing = "frozen predictors of one strength only" if cells else "no frozen predictor was run"
            tests.append(Check(f"{evidence.title(data)}, better - weaker frozen predictor", None, missing))
        tests += [convergence_test(evidence, data, cell.key, "ic") for cell in cells]
        tests += [final_test(evidence, data, a.key, b.key) for a, b in ranked]
    return tests


def _strength(cell: Cell, evidence: Evidence) -> int:
    """Training steps of the frozen predictor."""
    coupling = cell.run.coupling
    entry = evidence.numbers.book.entries.get(coupling.frozen)
    return coupling.frozen_step or (entry.run.train.steps if entry else 0)


def ect(claim: Mapping[str, Any], evidence: Evidence) -> list[Check]:
    """At each length of training at hand: ECT with GC at mu beats ECT-IC, and every mu farther than `far` from it that was run so long."""
    cells = [cell for cell in evidence.study.cells if cell.run.objective.kind == "ect"]
    best = f"ect-gc-{claim['mu']:g}"
    tests = []
    for data, steps in dict.fromkeys((cell.data, cell.run.train.steps) for cell in cells):
        there = [cell for cell in cells if (cell.data, cell.run.train.steps) == (data, steps)]
        own = {cell.slug: cell.key for cell in reversed(there)}
        others = ["ect-ic", *(f"ect-gc-{mu:g}" for mu in _mu(there) if abs(mu - claim["mu"]) > claim["far"])]
        keys = [own.get(name, f"{name}, {steps:,} steps") for name in (best, *others)]
        tests += [final_test(evidence, data, keys[0], key) for key in keys[1:]]
    return tests or [Check(f"{best} - ect-ic", None, "ECT not run")]


def dropout(claim: Mapping[str, Any], evidence: Evidence) -> list[Check]:
    """GC without dropout beats GC with it, and IC with it beats IC without, where nothing else differs."""
    tests = []
    for data in evidence.data(claim):
        for model in claim["models"]:
            same = [cell for cell in evidence.study.of(data) if cell.slug == model and _only(cell, "network.dropout")]
            having = {bool(max(cell.run.network.dropout)): cell.key for cell in same}
            names = {False: f"{model} without dropout", True: f"{model} with dropout"}
            first = model == "ic"  # the one that the claim says is better
            tests.append(final_test(evidence, data, having.get(first, names[first]), having.get(not first, names[not first])))
    return tests


def _only(cell: Cell, key: str) -> bool:
    return all(difference.startswith(f"{key}=") for difference in cell.differs)


def _mu(cells: Iterable[Cell]) -> list[float]:
    """mu of the GC cells that are no ablation."""
    couplings = [cell.run.coupling for cell in cells if isinstance(cell.run.coupling, GeneratorAugmented)]
    return sorted({coupling.mu for coupling in couplings if coupling == GeneratorAugmented(mu=coupling.mu)})


def final_test(evidence: Evidence, data: str, left: str, right: str) -> Check:
    """Final values of two cells of a data set, by seed, under one protocol."""
    cells = [cell for key in (left, right) if (cell := evidence.study.cell(data, key))]
    column = evidence.numbers.column(cells, evidence.main(data))
    values = [column.cells[key].values if key in column.cells else {} for key in (left, right)]
    names = _names(evidence, data, left, right)
    return _test(f"{evidence.title(data)}, {' - '.join(names)}", *names, values)


def _names(evidence: Evidence, data: str, *keys: str) -> list[str]:
    """The keys; where the key is a list of settings, or does not tell the predictor, the cell's label."""
    cells = [evidence.study.cell(data, key) for key in keys]
    long = any(cell and (cell.differs or "frozen" in cell.slug or cell.run.objective.kind == "ect") for cell in cells)
    return [cell.label if long and cell else key for cell, key in zip(cells, keys, strict=True)]


def convergence_test(evidence: Evidence, data: str, left: str, right: str, first: float = 1.0) -> Check:
    """Mean of ln of the main metric over the curve (or its first share), at the steps that both have."""
    cells = [evidence.study.cell(data, key) for key in (left, right)]
    curves = [evidence.numbers.curves(cell, evidence.main(data)) if cell else pd.DataFrame() for cell in cells]
    steps = sorted(set(curves[0].index) & set(curves[1].index))
    steps = steps[: max(1, math.ceil(first * len(steps)))]
    values = [{seed: float(curve.loc[steps, seed].clip(lower=1e-12).map(math.log).mean()) for seed in curve} for curve in curves]
    part = "" if first == 1 else f" over its first {first:.0%}"
    names = _names(evidence, data, left, right)
    test = _test(f"{evidence.title(data)}, mean ln of the curve{part}, {' - '.join(names)}", *names, values if steps else [{}, {}])
    return replace(test, found=replace(test.found, relative=math.expm1(test.found.mean))) if test.found else test


def _test(what: str, left: str, right: str, values: Sequence[Mapping[int, float]]) -> Check:
    found = paired(*values)
    absent = [key for key, value in zip((left, right), values, strict=True) if not value]
    return Check(what, found, "" if found else f"{' and '.join(absent)} not run" if absent else "no seed in common")


JUDGES: dict[str, Judge] = {
    "better": better,
    "band": band,
    "rebound": rebound,
    "frozen": frozen,
    "ect": ect,
    "dropout": dropout,
    **claims_theory.JUDGES,
}


def judge(evidence: Evidence, only: Sequence[str] | None = None) -> list[Verdict]:
    """The claims of paper_values.toml, or those of these ids, at the study's scale."""
    verdicts = []
    for claim in paper_values.paper()["claims"]:
        if only is None or claim["id"] in only:
            tests = JUDGES[claim["judge"]](claim, evidence)
            found = Verdict(claim["id"], claim["text"], claim["figure"], evidence.study.scale, combine(tests), tuple(tests))
            verdicts.append(found)
    return verdicts
