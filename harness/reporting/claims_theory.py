"""Judges of the claims about measured quantities: proxy Rtil_t, transport cost, theorems. Tests are over seeds, or by standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pandas as pd

from harness.reporting import paper_values
from harness.reporting.verdicts import ClaimTest, Evidence
from harness.statistics.differences import Difference, from_errors, paired
from harness.statistics.uncertainty import combined_error

BIAS = 0.03
"""Relative distance from a theorem's value within which the theorem counts as met, beyond two standard errors."""
RISE = 0.01
"""Share of the total decrease of c(t) above which an increase between two levels counts; a smaller one is not visible in a figure."""


def proxy(claim: Mapping[str, Any], evidence: Evidence) -> list[ClaimTest]:
    """Rtil_GC < Rtil_OT < Rtil_IC at every t, for every size of batch-OT, and ln(Rtil_IC / Rtil_GC) grows from the lowest t to the highest.

    Only values of one protocol are compared: those of denoisers that were trained in the same way. Exact values and the ideal flow have
    other protocols. Data sets where one of the three was not measured count only if there is no complete data set.
    """
    rows = evidence.measured[evidence.measured.quantity == "rtil"]
    alike = [_alike(part) for _, part in rows.groupby("data")]
    complete = [part for part in alike if len(_families(part)) == 3] or alike
    comparable = replace(evidence, measured=pd.concat(complete)) if complete else evidence
    return _each_data(comparable, ("rtil",), _proxy, "Rtil_GC < Rtil_OT < Rtil_IC")


def _alike(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the protocol and case under which most of IC, batch-OT and GC were measured."""
    return max((part for _, part in rows.groupby(["protocol", "case"])), key=lambda part: (len(_families(part)), len(part)))


def _families(rows: pd.DataFrame) -> set[str]:
    return set(rows.coupling.str.partition("-")[0]) & {"gc", "ot", "ic"}


def _proxy(rows: pd.DataFrame, name: str) -> list[ClaimTest]:
    gc, ic = _family(rows, "gc"), _family(rows, "ic")
    sizes = [part for _, part in _family(rows, "ot").groupby("coupling")] or [rows[:0]]
    tests = []
    for ot in sizes:
        size = "OT" if ot.empty else ot.coupling.iloc[0].upper().replace("-", " ")
        for title, left, right in ((f"Rtil GC - {size}", gc, ot), (f"Rtil {size} - IC", ot, ic)):
            times = _common(left, right)
            tests += [ClaimTest(f"{name}, {title} at t = {t:g}", _difference(left, right, t)) for t in times]
            tests += [] if times else [ClaimTest(f"{name}, {title}", None, "not measured")]
    common = _common(gc, ic)
    if len(common) < 2:
        return [*tests, ClaimTest(f"{name}, growth of ln(Rtil_IC / Rtil_GC) with t", None, "not measured")]
    growth = from_errors(*_log_ratio(ic, gc, common[0]), *_log_ratio(ic, gc, common[-1]))
    title = f"{name}, ln(Rtil_IC / Rtil_GC) at t = {common[0]:g} - at t = {common[-1]:g}"
    return [*tests, ClaimTest(title, growth)]


def transport(claim: Mapping[str, Any], evidence: Evidence) -> list[ClaimTest]:
    """c(t) of GC decreases from the lowest t to the highest, increases nowhere in between by more than RISE of that decrease, and is below
    every batch-OT's at the highest t: for the trained model, and for the ideal flow where both were measured.

    c(t) is equation (19) with the model's own endpoints, which are near the data but biased towards the noise. The cost after each is moved
    to the nearest data point (cost-data) is drawn in the figure and is not part of the claim.
    """
    return _each_data(evidence, ("cost", "cost-change"), _transport, "c(t) of GC")


def _transport(rows: pd.DataFrame, name: str) -> list[ClaimTest]:
    costs, changes = (rows[rows.quantity == quantity] for quantity in ("cost", "cost-change"))
    gc, ot = _family(costs, "gc"), _family(costs, "ot")
    ideal = costs[costs.coupling == "gc-ideal"]
    curves = [("GC", gc)] if set(gc.coupling) == {"gc-ideal"} or ideal.empty else [("GC", gc), ("GC with the ideal flow", ideal)]
    tests = []
    for what, curve in curves:
        tests += _falls(curve, changes[changes.coupling.isin(curve.coupling)], f"{name}, %s of {what}")
        tests.append(_below_ot(curve, ot, f"{name}, %s of {what} - batch-OT's"))
    return tests


def _falls(curve: pd.DataFrame, changes: pd.DataFrame, title: str) -> list[ClaimTest]:
    """changes: of c between levels from the same draws, which are more precise than differences of the curve."""
    times = sorted(curve.x.dropna().unique())
    if len(times) < 2:
        return [ClaimTest(title % "c(t)", None, "not measured")]
    total = from_errors(*_mean(curve, times[-1]), *_mean(curve, times[0]))
    tests = [ClaimTest(title % f"c({times[-1]:g}) - c({times[0]:g})", total)]
    for before, after in pairwise(times):
        step, se = _mean(curve, after)[0] - _mean(curve, before)[0], math.hypot(_mean(curve, after)[1], _mean(curve, before)[1])
        if (changes.x == after).any():
            step, se = _mean(changes, after)
        rise = from_errors(step, se, RISE * abs(total.mean))
        tests.append(ClaimTest(title % f"c({after:g}) - c({before:g}) - {RISE:.0%} of the fall", rise, guard=True))
    return tests


def _below_ot(curve: pd.DataFrame, ot: pd.DataFrame, title: str) -> ClaimTest:
    """At the highest t, compared with the batch-OT of the lowest cost."""
    if ot.empty or not curve.x.notna().any():
        return ClaimTest(title % "c(t)", None, "batch-OT not measured")
    flat = ot[ot.x.isna()] if ot.x.isna().any() else ot[ot.x == ot.x.max()]
    lowest = min(_mean(part) for _, part in flat.groupby(["coupling", "case"]))
    return ClaimTest(title % f"c({curve.x.max():g})", from_errors(*_mean(curve, curve.x.max()), *lowest))


def theorem1(claim: Mapping[str, Any], evidence: Evidence) -> list[ClaimTest]:
    """R(theta) > 0, and at the largest N the ratio of equation (7) is within two standard errors and 3 % of 1."""
    positive = _each_data(evidence, ("discrepancy",), _positive, "R(theta)")
    return positive + _each_data(evidence, ("theorem1",), _near_truth_at_the_end, "N^alpha (L_CT - L_CD) over its limit")


def _positive(rows: pd.DataFrame, name: str) -> list[ClaimTest]:
    return [
        ClaimTest(f"{name}, -R(theta), {row.label or row.coupling} {row.case}".rstrip(), from_errors(-row.value, row.se))
        for row in rows.itertuples()
    ]


def _near_truth_at_the_end(rows: pd.DataFrame, name: str) -> list[ClaimTest]:
    tests = []
    for (coupling, case), part in rows.groupby(["coupling", "case"]):
        row = part.loc[part.x.idxmax()]
        tests.append(_agrees(f"{name}, ratio at N = {row.x:g}, {coupling} {case}".rstrip(), row))
    return tests


def theorem2(claim: Mapping[str, Any], evidence: Evidence) -> list[ClaimTest]:
    """The slope of ln Rtil against ln t is lower for GC than for IC."""
    return _each_data(evidence, ("theorem2",), _slopes, "slope of ln Rtil")


def _slopes(rows: pd.DataFrame, name: str) -> list[ClaimTest]:
    tests = []
    for case, part in rows.groupby("case"):
        gc, ic = _family(part, "gc"), _family(part, "ic")
        difference = None if gc.empty or ic.empty else from_errors(*_mean(gc), *_mean(ic))
        tests.append(ClaimTest(f"{name}, slope of ln Rtil, GC - IC {case}".rstrip(), difference, "not measured"))
    return tests


def lemma1(claim: Mapping[str, Any], evidence: Evidence) -> list[ClaimTest]:
    """On every data set, finite differences of c(t) are on average over t (weighted by precision) within two standard errors and 3 % of the
    lemma's right-hand side, and at no t significantly farther than 3 % from it."""
    return _each_data(evidence, ("lemma1",), _near_truth, "c'(t)")


def _near_truth(rows: pd.DataFrame, name: str) -> list[ClaimTest]:
    tests = []
    for (coupling, case), part in rows.groupby(["coupling", "case"]):
        of = f"{coupling} {case}".rstrip()
        gap, se = _mean_gap(part)
        what = f"{name}, c'(t), {of}: {gap:+.2%} off on average over {len(part)} levels; distance - {BIAS:.0%}"
        tests.append(ClaimTest(what, from_errors(abs(gap), se, BIAS)))
        tests += [replace(_agrees(f"{name}, c'({row.x:g}), {of}", row), guard=True) for row in part.itertuples()]
    return tests


def _mean_gap(rows: pd.DataFrame) -> tuple[float, float]:
    """Mean of (value - truth) / |truth| weighted by precision, and its standard error; unweighted where a row has no error."""
    size = rows.truth.abs()
    gaps, errors = (rows.value - rows.truth) / size, (rows.se**2 + rows.truth_se.fillna(0) ** 2) ** 0.5 / size
    weights = 1 / errors**2 if (errors > 0).all() else errors * 0 + 1
    weights = weights / weights.sum()
    return float((weights * gaps).sum()), float(((weights * errors) ** 2).sum() ** 0.5)


def _agrees(what: str, row: Any) -> ClaimTest:
    """An equivalence test: |value - truth| - 3 % of |truth| is negative beyond its error (one side at alpha / 2)."""
    se = combined_error(row.se, None if math.isnan(row.truth_se) else row.truth_se)
    distance = from_errors(abs(row.value - row.truth), se, BIAS * abs(row.truth))
    return ClaimTest(f"{what}: {row.value:.4g} against {row.truth:.4g}; distance - {BIAS:.0%}", distance)


def _each_data(
    evidence: Evidence, quantities: tuple[str, ...], tests: Callable[[pd.DataFrame, str], list[ClaimTest]], what: str
) -> list[ClaimTest]:
    """The tests of each data set with these quantities. what: the title of the missing test if there is none."""
    rows = evidence.measured[evidence.measured.quantity.isin(quantities)]
    if rows.empty:
        return [ClaimTest(what, None, "not measured")]
    return [test for data, part in rows.groupby("data") for test in tests(part, paper_values.data_name(data))]


def _family(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows of a coupling: ic, ot (of any batch) or gc. Of gc, only the trained gc-0.5, else only the ideal flow, where measured."""
    family = rows[(rows.coupling == kind) | rows.coupling.str.startswith(f"{kind}-")]
    for preferred in ("gc-0.5", "gc-ideal"):
        if (family.coupling == preferred).any():
            return family[family.coupling == preferred]
    return family


def _common(left: pd.DataFrame, right: pd.DataFrame) -> list[float]:
    return sorted(set(left.x.dropna()) & set(right.x.dropna()))


def _mean(rows: pd.DataFrame, x: float | None = None) -> tuple[float, float]:
    """Mean and standard error of the rows at x (None: of all rows): over seeds if there are two, else from the rows' own errors."""
    at_x = rows if x is None else rows[rows.x == x]
    n = len(at_x)
    if n > 1 and at_x.seed.nunique() == n:
        return float(at_x.value.mean()), float(at_x.value.std() / math.sqrt(n))
    return float(at_x.value.mean()), float((at_x.se**2).sum() ** 0.5 / n) if at_x.se.notna().all() else math.nan


def _difference(left: pd.DataFrame, right: pd.DataFrame, x: float) -> Difference:
    """left - right at x: paired by training seed if two are common, else by standard errors."""
    seeds = [dict(zip(rows[rows.x == x].seed, rows[rows.x == x].value, strict=True)) for rows in (left, right)]
    difference = paired(*({int(seed): value for seed, value in part.items() if not math.isnan(seed)} for part in seeds))
    return difference if difference and difference.n > 1 else from_errors(*_mean(left, x), *_mean(right, x))


def _log_ratio(top: pd.DataFrame, bottom: pd.DataFrame, x: float) -> tuple[float, float]:
    """ln(top / bottom) at x and its standard error."""
    (a, a_se), (b, b_se) = _mean(top, x), _mean(bottom, x)
    return math.log(a / b), math.hypot(a_se / a, b_se / b)


JUDGES = (proxy, transport, theorem1, theorem2, lemma1)
