"""The table of checks: measured numbers whose exact value is known, beside that value."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from scipy.special import ndtr

from harness.reporting import paper_values
from harness.reporting.tables import MISSING, Table, percent
from harness.stats.measured import freedom
from harness.stats.uncertainty import AGREEMENT, combined_error, errors_away

QUANTITIES = {
    "rtil": ("Rtil", "t"),
    "cost": ("c(t)", "t"),
    "discrepancy": ("R(theta)", ""),
    "theorem1": ("N^alpha (L_CT - L_CD) / limit", "N"),
    "theorem2": ("slope of ln Rtil", ""),
    "lemma1": ("c'(t)", "t"),
    "exact-rtil": ("Rtil, closed form,", "t"),
    "exact-cost": ("c(t), closed form,", "t"),
    "exact-slope": ("c'(t), closed form,", "t"),
    "exact-ot": ("exact transport cost", ""),
    "oracle-error": ("largest error of the exact denoiser", "t"),
    "corollary1": ("c(t) - c(0)", "t"),
    "corollary2": ("c'(t) of a scaling", "t"),
    "gradient": ("squared distance of gradients", "N"),
}
"""Quantities whose exact values are known: how the table names them, and what x is."""
BOUNDED = ("oracle-error",)
"""Quantities that only have to stay below a tolerance, which is AGREEMENT standard errors of their true value 0."""


def checks_table(measured: pd.DataFrame) -> Table | None:
    """Measurements of one scale whose exact value is known, with that value; of those that converge in N, only the largest N.

    None if there are none.
    """
    known = measured[measured.truth.notna() & measured.quantity.isin(QUANTITIES)]
    largest = known.groupby(["scale", "data", "quantity", "coupling", "case"]).x.transform("max")
    known = known[(known.quantity != "theorem1") | (known.x == largest)]
    if known.empty:
        return None
    checks, rows = [], []
    for row in known.itertuples():
        check = _tolerance(row) if row.quantity in BOUNDED else _agreement(row)
        checks.append({name: check[name] for name in ("se", "tolerance", "errors_away", "agrees")})
        name, axis = QUANTITIES[row.quantity]
        at = f"{name} at {axis} = {row.x:.4g}" if axis and not pd.isna(row.x) else name.rstrip(",")
        trained = "trained denoiser" if row.quantity == "rtil" and row.run else ""
        what = ", ".join(filter(None, (at, row.label or row.coupling, trained, row.case)))
        rows.append((paper_values.data_name(row.data), what, f"{row.value:.5g}", check["error"], check["exact"], check["verdict"]))
    columns = ["scale", "data", "quantity", "coupling", "case", "x", "value", "truth"]
    frame = known[columns].join(pd.DataFrame(checks, index=known.index))
    scale = known.scale.iloc[0]
    headers = ("data", "quantity", "estimate", "error", "exact", "verdict")
    title = f"Measured quantities and their exact values ({scale} scale)"
    return Table(f"checks-{scale}", title, headers, tuple(rows), tuple(_notes(known, frame)), data=frame, words=True)


def _tolerance(row: Any) -> dict[str, Any]:
    """The check of a number that has no random error and must not exceed its tolerance."""
    tolerance = AGREEMENT * row.truth_se
    met = row.value <= tolerance
    verdict = f"{'within' if met else 'above'} the tolerance"
    return {
        **{"se": math.nan, "tolerance": tolerance, "errors_away": math.nan, "agrees": met},
        **{"error": f"at most {tolerance:.2g}", "exact": MISSING, "verdict": verdict},
    }


def _agreement(row: Any) -> dict[str, Any]:
    """The check of a number by its standard error and that of its exact value. Without an error there is no verdict."""
    errors = (row.se, None if pd.isna(row.truth_se) else row.truth_se)
    away = errors_away(row.value, row.truth, *errors, freedom(row))
    check = {"se": combined_error(*errors), "tolerance": math.nan, "errors_away": away, "exact": f"{row.truth:.5g}"}
    if math.isnan(away):
        return check | {"agrees": None, "error": "unknown", "verdict": "not judged: no error known"}
    met = abs(away) <= AGREEMENT
    return check | {"agrees": met, "error": f"{check['se']:.2g}", "verdict": "agrees" if met else _off(row.value, row.truth, away)}


def _off(value: float, truth: float, away: float) -> str:
    """How far a number is from its exact value: a percentage where the two are of one size, else the difference itself."""
    gap = abs(value - truth)
    size = percent(gap / abs(truth)).removeprefix("+") if 0 < gap <= abs(truth) else f"{gap:.3g}"
    return f"off by {size}" + (f" ({abs(away):,.0f} errors)" if math.isfinite(away) else "")


def _notes(known: pd.DataFrame, frame: pd.DataFrame) -> list[str]:
    """The rule of agreement, how many rows chance alone would put outside, and which rows are no checks of the code."""
    trained = (known.quantity == "rtil") & (known.run != "")
    judged = frame[frame.errors_away.notna() & ~trained]
    outside, chance = int((judged.errors_away.abs() > AGREEMENT).sum()), float(2 * ndtr(-AGREEMENT)) * len(judged)
    notes = [
        f"agrees: within {AGREEMENT:g} standard errors, or more of the same probability by Student's t where few draws estimate the error. "
        f"Of {len(judged)} rows with an error, {outside} lie{'s' * (outside == 1)} outside; "
        f"by chance alone {chance:.1f} would"
    ]
    if trained.any():
        count = f"Rtil of a trained denoiser ({trained.sum()} row{'s' * bool(trained.sum() > 1)})"
        notes.append(f"{count} does not count there: it is off by the denoiser's own error, which Figure 2 shows")
    return notes
