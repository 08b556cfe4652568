"""Claims about measured quantities: proxy Rtil_t, transport cost, theorems. Tests over seeds where there are two, else by their errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pandas as pd

from harness.reporting import paper_values
from harness.reporting.statistics import Paired, from_errors, paired
from harness.reporting.verdicts import Check, Evidence

BIAS = 0.03
"""Relative distance from a theorem's limit that counts as met, beyond two standard errors."""
RISE = 0.01
"""Share of the whole fall of c(t) that a rise from level to level must exceed to count as one: no figure shows less."""


def proxy(claim: Mapping[str, Any], evidence: Evidence) -> list[Check]:
    """Rtil_GC < Rtil_OT < Rtil_IC at every t, for every size of batch-OT, and ln(Rtil_IC / Rtil_GC) grows from the lowest t to the highest.

    Like is compared with like: what one protocol measured of all three, that is, by denoisers trained alike. Exact values and the ideal
    flow have protocols of their own. Data sets where not all three were measured do not count if there is one where they were.
    """
    rows = evidence.measured[evidence.measured.quantity == "rtil"]
    alike = [_alike(part) for _, part in rows.groupby("data")]
    whole = [part for part in alike if len(_families(part)) == 3] or alike
    chosen = replace(evidence, measured=pd.concat(whole)) if whole else evidence
    return _each_data(chosen, "rtil", _proxy, "Rtil_GC < Rtil_OT < Rtil_IC")


def _alike(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the one protocol and case under which the most of IC, batch-OT and GC were measured."""
    return max((part for _, part in rows.groupby(["protocol", "case"])), key=lambda part: (len(_families(part)), len(part)))


def _families(rows: pd.DataFrame) -> set[str]:
    return set(rows.coupling.str.partition("-")[0]) & {"gc", "ot", "ic"}


def _proxy(rows: pd.DataFrame, name: str) -> list[Check]:
    gc, ic = _family(rows, "gc"), _family(rows, "ic")
    sizes = [part for _, part in _family(rows, "ot").groupby("coupling")] or [rows[:0]]
    tests = []
    for ot in sizes:
        size = "OT" if ot.empty else ot.coupling.iloc[0].upper().replace("-", " ")
        for title, left, right in ((f"Rtil GC - {size}", gc, ot), (f"Rtil {size} - IC", ot, ic)):
            for t in _common(left, right) or [None]:
                found = None if t is None else _difference(left, right, t)
                tests.append(Check(f"{name}, {title}" + ("" if t is None else f" at t = {t:g}"), found, "not measured"))
    common = _common(gc, ic)
    if len(common) < 2:
        return [*tests, Check(f"{name}, growth of ln(Rtil_IC / Rtil_GC) with t", None, "not measured")]
    ends = [_log_ratio(ic, gc, t) for t in (common[0], common[-1])]
    grown = from_errors(ends[0][0], ends[0][1], ends[1][0], ends[1][1])
    title = f"{name}, ln(Rtil_IC / Rtil_GC) at t = {common[0]:g} - at t = {common[-1]:g}"
    return [*tests, Check(title, grown)]


def transport(claim: Mapping[str, Any], evidence: Evidence) -> list[Check]:
    """c(t) of GC falls from the lowest t to the highest, rises nowhere between by more than RISE of that fall, and lies below every
    batch-OT's at the highest: of the trained model, and of the ideal flow where both were measured.

    This is (19) to the letter, with the model's own endpoints, which lie beside the data and lean towards the noise. What remains when
    each is moved to the nearest data point is drawn beside it (cost-data), and is no part of the claim.
    """
    return _each_data(evidence, ("cost", "cost-change"), _transport, "c(t) of GC")


def _transport(rows: pd.DataFrame, name: str) -> list[Check]:
    costs, changes = (rows[rows.quantity == quantity] for quantity in ("cost", "cost-change"))
    gc, ot = _family(costs, "gc"), _family(costs, "ot")
    ideal = costs[costs.coupling == "gc-ideal"]
    curves = [("GC", gc)] if set(gc.coupling) == {"gc-ideal"} or ideal.empty else [("GC", gc), ("GC with the ideal flow", ideal)]
    tests = []
    for what, curve in curves:
        tests += _falls(curve, changes[changes.coupling.isin(curve.coupling)], f"{name}, %s of {what}")
        tests.append(_below_ot(curve, ot, f"{name}, %s of {what} - batch-OT's"))
    return tests


def _falls(curve: pd.DataFrame, changes: pd.DataFrame, title: str) -> list[Check]:
    times = sorted(curve.x.dropna().unique())
    if len(times) < 2:
        return [Check(title % "c(t)", None, "not measured")]
    whole = from_errors(*_mean(curve, times[-1]), *_mean(curve, times[0]))
    tests = [Check(title % f"c({times[-1]:g}) - c({times[0]:g})", whole)]
    for before, after in pairwise(times):
        step, se = _mean(curve, after)[0] - _mean(curve, before)[0], math.hypot(_mean(curve, after)[1], _mean(curve, before)[1])
        if (changes.x == after).any():
            step, se = _mean(changes, after)
        found = from_errors(step, se, RISE * abs(whole.mean))
        tests.append(Check(title % f"c({after:g}) - c({before:g}) - {RISE:.0%} of the fall", found, guard=True))
    return tests


def _below_ot(curve: pd.DataFrame, ot: pd.DataFrame, title: str) -> Check:
    """At the highest t, against the batch-OT of the lowest cost."""
    if ot.empty or not curve.x.notna().any():
        return Check(title % "c(t)", None, "batch-OT not measured")
    flat = ot[ot.x.isna()] if ot.x.isna().any() else ot[ot.x == ot.x.max()]
    lowest = min(_mean(part) for _, part in flat.groupby(["coupling", "case"]))
    return Check(title % f"c({curve.x.max():g})", from_errors(*_mean(curve, curve.x.max()), *lowest))


def theorem1(claim: Mapping[str, Any], evidence: Evidence) -> list[Check]:
    """R(theta) > 0, and at the largest N the ratio of equation (7) lies within two errors and 3 % of 1."""
    positive = _each_data(evidence, "discrepancy", _positive, "R(theta)")
    return positive + _each_data(evidence, "theorem1", _near_truth_at_the_end, "N^alpha (L_CT - L_CD) over its limit")


def _positive(rows: pd.DataFrame, name: str) -> list[Check]:
    return [
        Check(f"{name}, -R(theta), {row.label or row.coupling} {row.case}".rstrip(), from_errors(-row.value, row.se))
        for row in rows.itertuples()
    ]


def _near_truth_at_the_end(rows: pd.DataFrame, name: str) -> list[Check]:
    tests = []
    for (coupling, case), part in rows.groupby(["coupling", "case"]):
        row = part.loc[part.x.idxmax()]
        tests.append(_agrees(f"{name}, ratio at N = {row.x:g}, {coupling} {case}".rstrip(), row))
    return tests


def theorem2(claim: Mapping[str, Any], evidence: Evidence) -> list[Check]:
    """The slope of ln Rtil against ln t is lower for GC than for IC."""
    return _each_data(evidence, "theorem2", _slopes, "slope of ln Rtil")


def _slopes(rows: pd.DataFrame, name: str) -> list[Check]:
    tests = []
    for case, part in rows.groupby("case"):
        gc, ic = _family(part, "gc"), _family(part, "ic")
        found = from_errors(*_mean(gc), *_mean(ic)) if len(gc) and len(ic) else None
        tests.append(Check(f"{name}, slope of ln Rtil, GC - IC {case}".rstrip(), found, "not measured"))
    return tests


def lemma1(claim: Mapping[str, Any], evidence: Evidence) -> list[Check]:
    """On every data set, finite differences of c(t) lie within 3 % of the lemma's right-hand side beyond two errors, on average over t
    (weighted by precision), and at no t farther off than 3 % beyond its errors."""
    return _each_data(evidence, "lemma1", _near_truth, "c'(t)")


def _near_truth(rows: pd.DataFrame, name: str) -> list[Check]:
    tests = []
    for (coupling, case), part in rows.groupby(["coupling", "case"]):
        of = f"{coupling} {case}".rstrip()
        gap, se = _mean_gap(part)
        found = from_errors(abs(gap), se, BIAS)
        told = f"{name}, c'(t), {of}: {gap:+.2%} off on average over {len(part)} levels; distance - {BIAS:.0%}"
        tests.append(Check(told, found))
        tests += [replace(_agrees(f"{name}, c'({row.x:g}), {of}", row), guard=True) for row in part.itertuples()]
    return tests


def _mean_gap(rows: pd.DataFrame) -> tuple[float, float]:
    """Mean of (value - truth) / |truth| weighted by precision, and its error; plain where a row claims to be exact."""
    size = rows.truth.abs()
    gaps, errors = (rows.value - rows.truth) / size, (rows.se**2 + rows.truth_se.fillna(0) ** 2) ** 0.5 / size
    weights = 1 / errors**2 if (errors > 0).all() else errors * 0 + 1
    weights = weights / weights.sum()
    return float((weights * gaps).sum()), float(((weights * errors) ** 2).sum() ** 0.5)


def _agrees(what: str, row: Any) -> Check:
    """An equivalence test: |value - truth| - 3 % of |truth| is negative beyond its error (one side at alpha / 2)."""
    se = math.hypot(row.se, 0.0 if math.isnan(row.truth_se) else row.truth_se)
    found = from_errors(abs(row.value - row.truth), se, BIAS * abs(row.truth))
    return Check(f"{what}: {row.value:.4g} against {row.truth:.4g}; distance - {BIAS:.0%}", found)


def _each_data(
    evidence: Evidence, quantity: str | tuple[str, ...], tests: Callable[[pd.DataFrame, str], list[Check]], what: str
) -> list[Check]:
    names = (quantity,) if isinstance(quantity, str) else quantity
    rows = evidence.measured[evidence.measured.quantity.isin(names)]
    if rows.empty:
        return [Check(what, None, "not measured")]
    return [test for data, part in rows.groupby("data") for test in tests(part, paper_values.data_name(data))]


def _family(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows of IC, of batch-OT (any batch), or of GC: the plain gc-0.5 of a trained model where there is one, else the ideal flow's."""
    chosen = rows[(rows.coupling == kind) | rows.coupling.str.startswith(f"{kind}-")]
    if kind == "gc" and (chosen.coupling == "gc-0.5").any():
        return chosen[chosen.coupling == "gc-0.5"]
    if kind == "gc" and (chosen.coupling == "gc-ideal").any():
        return chosen[chosen.coupling == "gc-ideal"]
    return chosen


def _common(left: pd.DataFrame, right: pd.DataFrame) -> list[float]:
    return sorted(set(left.x.dropna()) & set(right.x.dropna()))


def _mean(rows: pd.DataFrame, x: float | None = None) -> tuple[float, float]:
    """Mean and standard error of the rows at x (of all rows): over seeds where there are two, else the row's own error."""
    chosen = rows if x is None else rows[rows.x == x]
    n = len(chosen)
    if n > 1 and chosen.seed.nunique() == n:
        return float(chosen.value.mean()), float(chosen.value.std() / math.sqrt(n))
    return float(chosen.value.mean()), float((chosen.se**2).sum() ** 0.5 / n) if chosen.se.notna().all() else math.nan


def _difference(left: pd.DataFrame, right: pd.DataFrame, x: float) -> Paired:
    seeds = [dict(zip(rows[rows.x == x].seed, rows[rows.x == x].value, strict=True)) for rows in (left, right)]
    found = paired(*({int(seed): value for seed, value in part.items() if not math.isnan(seed)} for part in seeds))
    return found if found and found.n > 1 else from_errors(*_mean(left, x), *_mean(right, x))


def _log_ratio(top: pd.DataFrame, bottom: pd.DataFrame, x: float) -> tuple[float, float]:
    (a, a_se), (b, b_se) = _mean(top, x), _mean(bottom, x)
    return math.log(a / b), math.hypot(a_se / a, b_se / b)


JUDGES = {
    "proxy": proxy,
    "transport": transport,
    "theorem1": theorem1,
    "theorem2": theorem2,
    "lemma1": lemma1,
}
