"""Judges of the claims about measured quantities: proxy Rtil_t, transport cost, theorems.

Quantities of trained networks are tested over training seeds, with the Monte-Carlo error beside the spread (harness.stats.measured);
one seed gives no verdict about a coupling. Exact laws and the ideal flow have no seed and are judged by their Monte-Carlo error. So are the
theorems, each network being one case of a statement about all functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pandas as pd

from harness.reporting import paper_values
from harness.reporting.paper_claims import Claim
from harness.reporting.tables import signed
from harness.reporting.verdicts import ClaimTest, Evidence, with_margin
from harness.stats.differences import Difference, beyond, from_errors
from harness.stats.measured import Sample, freedom, measured_difference, measured_sum, sample

RISE = 0.01
"""Share of the total decrease of c(t) above which an increase between two levels counts; a smaller one is not visible in a figure."""


def proxy(claim: Claim, evidence: Evidence) -> list[ClaimTest]:
    """Rtil_GC < Rtil_OT < Rtil_IC at every t, for every size of batch-OT, and ln(Rtil_IC / Rtil_GC) grows from the lowest t to the highest.

    Only values of one protocol are compared: those of denoisers that were trained in the same way. Exact values and the ideal flow have
    other protocols. Data sets where one of the three was not measured count only if there is no complete data set.
    """
    rows = evidence.measured[evidence.measured.quantity == "rtil"]
    alike = [_alike(part) for _, part in rows.groupby("data")]
    complete = [part for part in alike if len(_families(part)) == 3] or alike
    comparable = replace(evidence, measured=pd.concat(complete)) if complete else evidence
    return _each_data(claim, comparable, ("rtil",), _proxy, "Rtil_GC < Rtil_OT < Rtil_IC")


def _alike(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the protocol and case under which most of IC, batch-OT and GC were measured."""
    return max((part for _, part in rows.groupby(["protocol", "case"])), key=lambda part: (len(_families(part)), len(part)))


def _families(rows: pd.DataFrame) -> set[str]:
    return set(rows.coupling.str.partition("-")[0]) & {"gc", "ot", "ic"}


def _proxy(claim: Claim, rows: pd.DataFrame, name: str) -> list[ClaimTest]:
    gc, ic = _family(rows, "gc"), _family(rows, "ic")
    sizes = [part for _, part in _family(rows, "ot").groupby("coupling")] or [rows[:0]]
    tests = []
    for ot in sizes:
        size = "OT" if ot.empty else ot.coupling.iloc[0].upper().replace("-", " ")
        for title, left, right in ((f"Rtil GC - {size}", gc, ot), (f"Rtil {size} - IC", ot, ic)):
            times = _common(left, right)
            tests += [_less(claim, f"{name}, {title} at t = {t:g}", _at(left, t), _at(right, t)) for t in times]
            tests += [] if times else [ClaimTest(f"{name}, {title}", None, "not measured")]
    common = [t for t in _common(gc, ic) if min(number.value for rows in (gc, ic) for number in _at(rows, t).numbers.values()) > 0]
    if len(common) < 2:
        return [*tests, ClaimTest(f"{name}, growth of ln(Rtil_IC / Rtil_GC) with t", None, "not measured")]
    first, last = common[0], common[-1]
    terms = [(1.0, _at(ic, first)), (-1.0, _at(gc, first)), (-1.0, _at(ic, last)), (1.0, _at(gc, last))]
    growth = measured_sum([(factor, numbers.log) for factor, numbers in terms])
    title = f"{name}, ln(Rtil_IC / Rtil_GC) at t = {first:g} - at t = {last:g}"
    return [*tests, with_margin(claim, ClaimTest(title, growth), math.log1p(claim.margin))]


def transport(claim: Claim, evidence: Evidence) -> list[ClaimTest]:
    """c(t) of GC decreases from the lowest t to the highest, increases nowhere in between by more than RISE of that decrease, and is below
    that of batch-OT of every size at the highest t: for the trained model, and for the ideal flow where both were measured.

    c(t) is equation (19) with the model's own endpoints, which are near the data but biased towards the noise. The cost after each is moved
    to the nearest data point (cost-data) is drawn in the figure and is not part of the claim.
    """
    return _each_data(claim, evidence, ("cost", "cost-change"), _transport, "c(t) of GC")


def _transport(claim: Claim, rows: pd.DataFrame, name: str) -> list[ClaimTest]:
    costs, changes = (rows[rows.quantity == quantity] for quantity in ("cost", "cost-change"))
    gc, ot = _family(costs, "gc"), _family(costs, "ot")
    ideal = costs[costs.coupling == "gc-ideal"]
    curves = [("GC", gc)] if set(gc.coupling) == {"gc-ideal"} or ideal.empty else [("GC", gc), ("GC with the ideal flow", ideal)]
    tests = []
    for what, curve in curves:
        tests += _falls(claim, curve, changes[changes.coupling.isin(curve.coupling)], f"{name}, %s of {what}")
        tests += _below_ot(claim, curve, ot, f"{name}, %s of {what} - %s")
    return tests


def _falls(claim: Claim, curve: pd.DataFrame, changes: pd.DataFrame, title: str) -> list[ClaimTest]:
    """changes: of c between levels from the same draws, which are more precise than differences of the curve."""
    times = sorted(curve.x.dropna().unique())
    if len(times) < 2:
        return [ClaimTest(title % "c(t)", None, "not measured")]
    total = _less(claim, title % f"c({times[-1]:g}) - c({times[0]:g})", _at(curve, times[-1]), _at(curve, times[0]))
    assert total.difference is not None
    most = RISE * abs(total.difference.mean)
    tests = [total]
    for before, after in pairwise(times):
        what = title % f"c({after:g}) - c({before:g}) - {RISE:.0%} of the fall"
        measured = (changes.x == after).any()
        rise = (
            measured_sum([(1.0, _at(changes, after))], most)
            if measured
            else measured_difference(_at(curve, after), _at(curve, before), most)
        )
        tests.append(ClaimTest(what, replace(rise, relative=None), guard=True))
    return tests


def _below_ot(claim: Claim, curve: pd.DataFrame, ot: pd.DataFrame, title: str) -> list[ClaimTest]:
    """At the highest t, compared with batch-OT of every size."""
    if ot.empty or not curve.x.notna().any():
        return [ClaimTest(title % ("c(t)", "batch-OT's"), None, "batch-OT not measured")]
    flat = ot[ot.x.isna()] if ot.x.isna().any() else ot[ot.x == ot.x.max()]
    last, gc = f"c({curve.x.max():g})", _at(curve, curve.x.max())
    return [
        _less(
            claim, title % (last, " ".join(filter(None, ("batch-OT's", coupling.partition("-")[2], case)))), gc, sample(part.itertuples())
        )
        for (coupling, case), part in flat.groupby(["coupling", "case"])
    ]


def theorem1(claim: Claim, evidence: Evidence) -> list[ClaimTest]:
    """R(theta) > 0 for every network and law, and at the largest N the ratio of equation (7) is 1 within the margin."""
    positive = _each_data(claim, evidence, ("discrepancy",), _positive, "R(theta)")
    return positive + _each_data(claim, evidence, ("theorem1",), _near_truth_at_the_end, "N^alpha (L_CT - L_CD) over its limit")


def _positive(claim: Claim, rows: pd.DataFrame, name: str) -> list[ClaimTest]:
    return [ClaimTest(f"{name}, -R(theta), {_of(row)}", _monte_carlo(row, -row.value)) for row in rows.itertuples()]


def _near_truth_at_the_end(claim: Claim, rows: pd.DataFrame, name: str) -> list[ClaimTest]:
    ends = [part.loc[part.x.idxmax()] for _, part in rows.groupby(["coupling", "case", "run"])]
    return [_agrees(claim, f"{name}, ratio at N = {row.x:g}, {_of(row)}", row) for row in ends]


def theorem2(claim: Claim, evidence: Evidence) -> list[ClaimTest]:
    """The slope of ln Rtil against ln t is lower for GC than for IC."""
    return _each_data(claim, evidence, ("theorem2",), _slopes, "slope of ln Rtil")


def _slopes(claim: Claim, rows: pd.DataFrame, name: str) -> list[ClaimTest]:
    tests = []
    for case, part in rows.groupby("case"):
        gc, ic = _family(part, "gc"), _family(part, "ic")
        title = f"{name}, slope of ln Rtil, GC - IC {case}".rstrip()
        missing = gc.empty or ic.empty
        test = ClaimTest(title, None, "not measured") if missing else _less(claim, title, *(sample(side.itertuples()) for side in (gc, ic)))
        tests.append(test)
    return tests


def lemma1(claim: Claim, evidence: Evidence) -> list[ClaimTest]:
    """On every data set, finite differences of c(t) equal the lemma's right-hand side within the margin, on average over t (weighted by
    precision), and at no t are they significantly farther from it."""
    return _each_data(claim, evidence, ("lemma1",), _near_truth, "c'(t)")


def _near_truth(claim: Claim, rows: pd.DataFrame, name: str) -> list[ClaimTest]:
    tests = []
    for (coupling, case), part in rows.groupby(["coupling", "case"]):
        of = f"{coupling} {case}".rstrip()
        gap, se = _mean_gap(part)
        what = f"{name}, c'(t), {of}: {signed(gap, '.2%')} off on average over {len(part)} levels; distance - {claim.margin:.0%}"
        tests.append(ClaimTest(what, beyond(from_errors(gap, se), claim.margin)))
        tests += [replace(_agrees(claim, f"{name}, c'({row.x:g}), {of}", row), guard=True) for row in part.itertuples()]
    return tests


def _mean_gap(rows: pd.DataFrame) -> tuple[float, float]:
    """Mean of (value - truth) / |truth| weighted by precision, and its standard error; unweighted where a row has no error."""
    size = rows.truth.abs()
    gaps, errors = (rows.value - rows.truth) / size, (rows.se**2 + rows.truth_se.fillna(0) ** 2) ** 0.5 / size
    weights = 1 / errors**2 if (errors > 0).all() else errors * 0 + 1
    weights = weights / weights.sum()
    return float((weights * gaps).sum()), float(((weights * errors) ** 2).sum() ** 0.5)


def _agrees(claim: Claim, what: str, row: Any) -> ClaimTest:
    """Two one-sided tests: |value - truth| - margin * |truth| is negative beyond its error."""
    gap = _monte_carlo(row, row.value, row.truth, 0.0 if math.isnan(row.truth_se) else row.truth_se)
    distance = beyond(gap, claim.margin * abs(row.truth))
    return ClaimTest(f"{what}: {row.value:.4g} against {row.truth:.4g}; distance - {claim.margin:.0%}", distance)


def _monte_carlo(row: Any, value: float, truth: float = 0.0, truth_se: float = 0.0) -> Difference:
    """value - truth by the Monte-Carlo error of the row, whose draws give its degrees of freedom."""
    return from_errors(value, row.se, truth, truth_se, left_df=freedom(row))


def _of(row: Any) -> str:
    """What a row of a theorem was measured on: a network with its seed, or a law."""
    seed = "" if math.isnan(row.seed) else f"seed {row.seed:.0f}"
    return " ".join(filter(None, (row.coupling, row.case, seed)))


def _each_data(
    claim: Claim, evidence: Evidence, quantities: tuple[str, ...], tests: Callable[[Claim, pd.DataFrame, str], list[ClaimTest]], what: str
) -> list[ClaimTest]:
    """The tests of each data set with these quantities. what: the title of the missing test if there is none."""
    rows = evidence.measured[evidence.measured.quantity.isin(quantities)]
    if rows.empty:
        return [ClaimTest(what, None, "not measured")]
    by_data = [(str(data), tests(claim, part, paper_values.data_name(str(data)))) for data, part in rows.groupby("data")]
    return [replace(test, data=data) for data, part in by_data for test in part]


def _less(claim: Claim, what: str, left: Sample, right: Sample) -> ClaimTest:
    """The test that left is below right; differences within the margin, a share of right, count as none."""
    return with_margin(claim, ClaimTest(what, measured_difference(left, right)), claim.margin * abs(right.mean))


def _family(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows of a coupling: ic, ot (of any batch) or gc. Of gc, only the trained gc-0.5, else only the ideal flow, where measured."""
    family = rows[(rows.coupling == kind) | rows.coupling.str.startswith(f"{kind}-")]
    for preferred in ("gc-0.5", "gc-ideal"):
        if (family.coupling == preferred).any():
            return family[family.coupling == preferred]
    return family


def _common(left: pd.DataFrame, right: pd.DataFrame) -> list[float]:
    return sorted(set(left.x.dropna()) & set(right.x.dropna()))


def _at(rows: pd.DataFrame, x: float) -> Sample:
    """The measurements at x, by training seed."""
    return sample(rows[rows.x == x].itertuples())


JUDGES = (proxy, transport, theorem1, theorem2, lemma1)
