"""Tables of a whole results folder: the claims, the checks against exact values, the protocol ledger, the metric protocols."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.config.parts import Protocol
from harness.reporting import paper_values
from harness.reporting.load import LoadedResults
from harness.reporting.tables import MISSING, Lines, Table
from harness.reporting.verdicts import RULES, Verdict
from harness.statistics.uncertainty import AGREEMENT, agrees, combined_error

QUANTITIES = {
    "rtil": "Rtil at t",
    "cost": "c(t) at t",
    "discrepancy": "R(theta)",
    "theorem1": "N^alpha (L_CT - L_CD) / limit, N",
    "theorem2": "slope of ln Rtil",
    "lemma1": "c'(t) at t",
    "exact-rtil": "Rtil, closed form, at t",
    "exact-cost": "c(t), closed form, at t",
    "exact-slope": "c'(t), closed form, at t",
    "exact-ot": "exact transport cost",
    "oracle-error": "oracle's largest error",
    "corollary1": "c'(t) near 0, at t",
    "corollary2": "c'(t) of a scaling, at t",
    "gradient": "squared distance of gradients, N",
}
"""Quantities whose exact values are known, as the table of checks prints them."""


def claims_table(verdicts: Sequence[Verdict]) -> Table:
    """One row per claim, one column per scale."""
    frame = pd.DataFrame(
        {"claim": verdict.id, "text": verdict.text, "figure": verdict.figure, "scale": verdict.scale, "outcome": str(verdict.outcome)}
        | {"tests": len(verdict.tests), "evidence": " | ".join(verdict.evidence())}
        for verdict in verdicts
    )
    scales = list(frame.scale.unique())
    rows = []
    for (claim, text, figure), part in frame.groupby(["claim", "text", "figure"], sort=False):
        outcomes = dict(zip(part.scale, part.outcome, strict=True))
        rows.append((Lines(f"{claim} {text}", figure), *(outcomes.get(scale, MISSING) for scale in scales)))
    return Table("claims", "The paper's claims at every scale", ("claim", *scales), tuple(rows), RULES, data=frame, words=True)


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
        errors = (row.se, None if pd.isna(row.truth_se) else row.truth_se)
        agreement = agrees(row.value, row.truth, *errors)
        checks.append({"se": combined_error(*errors), "agrees": agreement})
        at = "" if pd.isna(row.x) else f" = {row.x:.4g}"
        what = ", ".join(filter(None, (f"{QUANTITIES[row.quantity]}{at}", row.label or row.coupling, row.case)))
        negligible = abs(row.truth) <= 1e-9 * abs(row.value)  # a percentage of rounding errors says nothing
        off = "off" if negligible else f"off by {abs(row.value - row.truth) / abs(row.truth):.1%}"
        texts = (f"{row.value:.5g}", f"{checks[-1]['se']:.2g}", f"{row.truth:.5g}")
        rows.append((paper_values.data_name(row.data), what, *texts, "agrees" if agreement else off))
    columns = ["scale", "data", "quantity", "coupling", "case", "x", "value", "truth"]
    frame = known[columns].join(pd.DataFrame(checks, index=known.index))
    scale = known.scale.iloc[0]
    headers = ("data", "quantity", "estimate", "error", "exact", "verdict")
    notes = (f"agrees: within {AGREEMENT:g} standard errors",)
    title = f"Measured quantities and their exact values ({scale} scale)"
    return Table(f"checks-{scale}", title, headers, tuple(rows), notes, data=frame, words=True)


def ledger_table(loaded: LoadedResults) -> Table:
    """The protocol ledger: what each switch means, and which values the runs of each scale have."""
    switches = []
    for name, switch in Protocol.model_fields.items():
        paper, _, released = (switch.description or "").partition("released:")
        row = {"knob": name, "paper": paper.strip().removeprefix("paper:").strip(), "released": released.strip()}
        for scale in loaded.scales:
            row[scale] = " and ".join(sorted({getattr(entry.run.protocol, name) for entry in loaded.of_scale(scale)}))
        switches.append(row)
    frame = pd.DataFrame(switches)
    headers = ("knob", "paper", "released code", *(f"{scale} runs" for scale in loaded.scales))
    title = "Protocol ledger: where paper and released code differ"
    return Table("ledger", title, headers, tuple(frame.itertuples(index=False, name=None)), data=frame, words=True)


def protocols_table(loaded: LoadedResults) -> Table | None:
    """The meaning of the protocol hashes in the tables, which files of baselines state. None if there are none."""
    known = {digest: (baselines.data, values) for baselines in loaded.baselines for digest, values in baselines.protocols.items()}
    if not known:
        return None
    frame = pd.DataFrame({"protocol": digest, "data": data, "values": _flat(values)} for digest, (data, values) in sorted(known.items()))
    rows = tuple((digest, paper_values.data_name(data), values) for digest, data, values in frame.itertuples(index=False, name=None))
    return Table("protocols", "Metric protocols", ("protocol", "data", "what values depend on"), rows, data=frame, words=True)


def _flat(values: object, prefix: str = "") -> str:
    if not isinstance(values, dict):
        return f"{prefix}={values}"
    return ", ".join(_flat(value, f"{prefix}.{key}".lstrip(".")) for key, value in values.items())
