"""Tables over everything at hand: the claims, the checks against exact values, the protocol ledger."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.config.run import Protocol
from harness.reporting import paper_values
from harness.reporting.load import Book
from harness.reporting.tables import MISSING, Small, Table
from harness.reporting.verdicts import Verdict

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
ERRORS = 3.0
"""Standard errors within which an estimate agrees with an exact value."""


def claims_table(verdicts: Sequence[Verdict]) -> Table:
    """A row a claim, a column a scale."""
    scales = list(dict.fromkeys(verdict.scale for verdict in verdicts))
    by_claim: dict[str, dict[str, Verdict]] = {}
    for verdict in verdicts:
        by_claim.setdefault(verdict.id, {})[verdict.scale] = verdict
    rows = []
    for name, found in by_claim.items():
        first = next(iter(found.values()))
        cells = (str(found[scale].outcome) if scale in found else MISSING for scale in scales)
        rows.append((Small(f"{name} {first.text}", first.figure), *cells))
    data = pd.DataFrame(
        [
            {"claim": v.id, "text": v.text, "figure": v.figure, "scale": v.scale, "outcome": str(v.outcome)}
            | {"tests": len(v.tests), "evidence": " | ".join(v.evidence())}
            for v in verdicts
        ]
    )
    notes = (
        "tests: paired over training seeds (t test, two-sided, alpha = 0.05), on FID or, for points, W2; measured quantities by errors",
        "supported: all tests that the claim asks for are significant; contradicted: one is, the other way (Holm); else not separable",
    )
    return Table("claims", "The paper's claims, at every scale at hand", ("claim", *scales), tuple(rows), notes, data=data, words=True)


def checks_table(measured: pd.DataFrame) -> Table | None:
    """Every measured quantity whose exact value is known, beside it; of what converges in N, the largest N."""
    rows = measured[measured.truth.notna() & measured.quantity.isin(QUANTITIES)]
    largest = rows.groupby(["scale", "data", "quantity", "coupling", "case"]).x.transform("max")
    rows = rows[(rows.quantity != "theorem1") | (rows.x == largest)]
    if rows.empty:
        return None
    shown, tidy = [], []
    for row in rows.itertuples():
        se = float((row.se**2 + (0 if pd.isna(row.truth_se) else row.truth_se) ** 2) ** 0.5)
        gap = abs(row.value - row.truth)
        agrees = gap <= ERRORS * se or gap <= 1e-9 * abs(row.truth)
        at = "" if pd.isna(row.x) else f" = {row.x:.4g}"
        what = ", ".join(text for text in (f"{QUANTITIES[row.quantity]}{at}", row.label or row.coupling, row.case) if text)
        verdict = "agrees" if agrees else f"off by {gap / abs(row.truth):.1%}" if row.truth else "off"
        shown.append((paper_values.data_name(row.data), what, f"{row.value:.5g}", f"{se:.2g}", f"{row.truth:.5g}", verdict))
        tidy.append({name: getattr(row, name) for name in ("scale", "data", "quantity", "coupling", "case", "x", "value", "truth")})
        tidy[-1] |= {"se": se, "agrees": agrees}
    headers = ("data", "quantity", "estimate", "error", "exact", "verdict")
    title, notes = "Measured quantities beside their exact values", (f"agrees: within {ERRORS:g} standard errors",)
    return Table("checks", title, headers, tuple(shown), notes, data=pd.DataFrame(tidy), words=True)


def ledger_table(book: Book) -> Table:
    """The protocol ledger: what each switch means, and which way the runs of each scale went."""
    used: dict[tuple[str, str], set[str]] = {}
    for entry in book.entries.values():
        for knob in Protocol.model_fields:
            used.setdefault((knob, entry.run.scale), set()).add(getattr(entry.run.protocol, knob))
    rows, tidy = [], []
    for knob, field in Protocol.model_fields.items():
        told = (field.description or "").partition("released:")
        meaning = {"paper": told[0].removeprefix("paper:").strip(), "released": told[2].strip()}
        found = {scale: " and ".join(sorted(used[knob, scale])) for scale in book.scales}
        rows.append((knob, meaning["paper"], meaning["released"], *found.values()))
        tidy.append({"knob": knob, **meaning, **found})
    headers = ("knob", "paper", "released code", *(f"{scale} runs" for scale in book.scales))
    title = "Protocol ledger: where paper and released code differ"
    return Table("ledger", title, headers, tuple(rows), data=pd.DataFrame(tidy), words=True)


def protocols_table(book: Book) -> Table | None:
    """What the protocol hashes of the tables stand for, as far as files of baselines tell."""
    known = {name: (baselines.data, values) for baselines in book.baselines for name, values in baselines.protocols.items()}
    if not known:
        return None
    rows = tuple((name, paper_values.data_name(data), _flat(values)) for name, (data, values) in sorted(known.items()))
    data = pd.DataFrame([{"protocol": name, "data": data, "values": _flat(values)} for name, (data, values) in sorted(known.items())])
    return Table("protocols", "Metric protocols", ("protocol", "data", "what values depend on"), rows, data=data, words=True)


def _flat(values: object, prefix: str = "") -> str:
    if not isinstance(values, dict):
        return f"{prefix}={values}"
    return ", ".join(_flat(value, f"{prefix}.{key}".lstrip(".")) for key, value in values.items())
