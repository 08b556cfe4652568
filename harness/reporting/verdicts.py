"""Verdicts: the tests of a claim, how their results combine, and the evidence that a judge uses.

A claim is a conjunction of tests. It is contradicted when one of them is significant in the opposite direction (Holm's correction over its
tests); else not run when a test lacks its runs; else supported when all tests are significant (an intersection-union test needs no
correction); else inconclusive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pandas as pd

from harness.config import presets
from harness.data.catalogue import main_metric
from harness.reporting import paper_values
from harness.reporting.cells import ExperimentCells
from harness.reporting.values import METRICS, CellValues
from harness.statistics.differences import Difference
from harness.statistics.intervals import ALPHA


class Outcome(StrEnum):
    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"
    NOT_RUN = "not run"


RULES = (
    "tests: paired over training seeds (t test, two-sided, alpha = 0.05), on FID or, for points, W2; measured quantities by errors",
    "supported: all tests that the claim asks for are significant; contradicted: one is, the other way (Holm); else inconclusive",
)
"""How claims are judged, in words, for tables and the page."""


@dataclass(frozen=True)
class ClaimTest:
    """One test of a claim: the difference left - right, which the claim says is negative. missing: why it could not be made.

    guard: the claim only says that the difference is not positive: the test may contradict the claim but need not support it.
    """

    what: str
    difference: Difference | None
    missing: str = ""
    guard: bool = False

    @property
    def outcome(self) -> Outcome:
        if self.difference is None:
            return Outcome.NOT_RUN
        if self.difference.p is None or self.difference.p >= ALPHA:
            return Outcome.INCONCLUSIVE
        return Outcome.SUPPORTED if self.difference.mean < 0 else Outcome.CONTRADICTED

    def __str__(self) -> str:
        difference = self.difference
        if difference is None:
            return f"{self.what}: {self.missing or 'not run'}"
        text = f"{self.what}: {difference.mean:+.3g}"
        if difference.low is not None:
            text += f" [{difference.low:+.3g}, {difference.high:+.3g}]"
        if difference.relative is not None:
            text += f" ({difference.relative:+.0%})"
        if difference.p is None:
            return f"{text}, {difference.n} {difference.unit.removesuffix('s')}: no test"
        seeds = difference.unit == "seeds"
        effect = "" if difference.effect is None else f", {'d' if seeds else 'z'} = {difference.effect:+.1f}"
        count = f"{difference.n} seeds" if seeds else difference.unit
        p = f"p = {difference.p:.2g}" if difference.p > 1e-12 else "p < 1e-12"
        return f"{text}, {p}{effect}, {count}: {self.outcome}"


@dataclass(frozen=True)
class Verdict:
    """A claim at one scale."""

    id: str
    text: str
    figure: str
    scale: str
    outcome: Outcome
    tests: tuple[ClaimTest, ...]

    def evidence(self, most: int = 8) -> list[str]:
        """The tests in words; of more than `most`, the counts of their outcomes and the weakest ones."""
        if len(self.tests) <= most:
            return [str(test) for test in self.tests]
        counts = {outcome: sum(test.outcome is outcome for test in self.tests) for outcome in Outcome}
        summary = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
        weakest = sorted(self.tests, key=_weakness)[: most - 3]
        return [f"{len(self.tests)} tests: {summary}; the weakest:", *(str(test) for test in weakest)]


def _weakness(test: ClaimTest) -> float:
    """Sorts tests that could not be made first, then those against the claim by p, then those for it by falling p."""
    if test.difference is None:
        return -1.0
    p = 1.0 if test.difference.p is None else test.difference.p
    return p if test.difference.mean > 0 else 2 - p


def combine(tests: Sequence[ClaimTest]) -> Outcome:
    """The outcome of a conjunction of tests."""
    differences = [test.difference for test in tests if test.difference is not None]
    opposite = [difference.p for difference in differences if difference.p is not None and difference.mean > 0]
    if opposite and min(opposite) * len(differences) < ALPHA:  # Holm rejects any of the tests only if it rejects the smallest p
        return Outcome.CONTRADICTED
    if not differences or len(differences) < len(tests):
        return Outcome.NOT_RUN
    supported = all(test.outcome is Outcome.SUPPORTED or test.guard for test in tests)
    return Outcome.SUPPORTED if supported else Outcome.INCONCLUSIVE


@dataclass(frozen=True)
class Evidence:
    """What claims are judged by at one scale. measured: its rows of `harness.store.measurements.read`."""

    experiment: ExperimentCells
    cell_values: CellValues
    measured: pd.DataFrame

    def data(self, claim: Mapping[str, Any]) -> list[str]:
        """The data sets that a claim is about at this scale."""
        named = claim.get("paper_data") if self.experiment.scale == "paper" else None
        sets = named or presets.scale(self.experiment.scale).table1
        return [data for data in sets if data not in claim.get("except", ())]

    def title(self, data: str) -> str:
        return f"{paper_values.data_name(data)}, {METRICS[main_metric(data)].title}"
