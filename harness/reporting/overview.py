"""Tables of a whole results folder: the claims, the protocol ledger, the metric protocols."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.config.parts import Protocol
from harness.reporting import paper_values
from harness.reporting.load import LoadedResults
from harness.reporting.tables import MISSING, Lines, Table
from harness.reporting.verdicts import RULES, ClaimTest, Verdict

NUMBERS = ("test", "margin", "n", "unit", "effect", "low", "high", "p")
"""Columns of a test in the CSV files of claims and their tests."""
CLAIM_COLUMNS = (
    *("claim", "text", "figure", "scale", "outcome", "verdict", "tests", "evidence", *NUMBERS),
    *("seeds_needed", "runs_needed", "hours", "command"),
)


def claims_table(verdicts: Sequence[Verdict]) -> Table:
    """One row per claim, one column per scale. Its CSV has a row per claim and scale, with the numbers of the test that decides it."""
    frame = pd.DataFrame(map(_claim_row, verdicts), columns=list(CLAIM_COLUMNS))
    scales = list(frame.scale.unique())
    rows = []
    for (claim, text, figure), part in frame.groupby(["claim", "text", "figure"], sort=False):
        outcomes = dict(zip(part.scale, part.verdict, strict=True))
        rows.append((Lines(f"{claim} {text}", figure), *(outcomes.get(scale, MISSING) for scale in scales)))
    return Table("claims", "The paper's claims at every scale", ("claim", *scales), tuple(rows), RULES, data=frame, words=True)


def _claim_row(verdict: Verdict) -> dict[str, object]:
    """A row of the CSV of claims.

    n, effect (the difference), low, high, p and margin are those of the test named in `test`; only a test that counts has a p: one seed has
    none. hours: of training on one device. seeds_needed is one more than the most that are planned where even those are too few.
    """
    row: dict[str, object] = {"claim": verdict.id, "text": verdict.text, "figure": verdict.figure, "scale": verdict.scale}
    row |= {"outcome": str(verdict.outcome), "verdict": verdict.summary, "tests": len(verdict.tests)}
    row |= {"evidence": " | ".join(verdict.evidence())}
    if verdict.weakest is not None:
        row |= _test_numbers(verdict.tests[verdict.weakest])
    if plan := verdict.plan:
        row |= {"seeds_needed": plan.seeds, "runs_needed": plan.runs or None, "hours": plan.hours, "command": plan.command or None}
    return row


def _test_numbers(test: ClaimTest) -> dict[str, object]:
    """The numbers of a test; those of a difference that allows no test are left out."""
    numbers: dict[str, object] = {"test": test.what, "margin": test.margin}
    if difference := test.difference:
        numbers |= {"n": difference.n, "unit": difference.unit, "effect": difference.mean}
        if test.tested:
            numbers |= {"low": difference.low, "high": difference.high, "p": difference.p}
    return numbers


def claim_tests_table(verdicts: Sequence[Verdict]) -> Table:
    """Every test of every claim, with its outcome and its p after Holm's correction: what the table of claims sums up."""
    rows = [
        {"claim": verdict.id, "scale": verdict.scale, "data": test.data, "outcome": test.label(outcome), "p_holm": p_holm}
        | _test_numbers(test)
        | {"text": test.describe(outcome, p_holm)}
        for verdict in verdicts
        for test, outcome, p_holm in verdict.judged_tests
    ]
    texts = tuple((str(row["claim"]), str(row["scale"]), str(row["text"])) for row in rows)
    notes = ("each difference is one that the claim says is negative; p_holm in the CSV file: against the claim, after Holm's correction",)
    frame = pd.DataFrame(rows, columns=["claim", "scale", "data", "outcome", *NUMBERS, "p_holm"])
    return Table("claims-tests", "The tests behind the claims", ("claim", "scale", "test"), texts, notes, data=frame, words=True)


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
