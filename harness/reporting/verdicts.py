"""What a verdict is: tests, how they combine, and what a judge may look at.

A claim is a conjunction of tests. It is supported when every test it asks for is there and significant (an intersection-union test needs
no correction), contradicted when one is significant the other way round (Holm's correction over its tests), else not separable; not run
when a test lacks its runs and none contradicts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pandas as pd

from harness.config import presets
from harness.reporting import paper_values
from harness.reporting.cells import ExperimentCells
from harness.reporting.statistics import ALPHA, Paired, holm
from harness.reporting.values import METRICS, Numbers


class Outcome(StrEnum):
    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    NOT_SEPARABLE = "not separable"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Check:
    """One test: `found` is left - right on equal seeds, and the claim says that it is negative. missing: why it cannot be made.

    guard: the claim only says that it is not positive, so the test may contradict the claim but need not support it.
    """

    what: str
    found: Paired | None
    missing: str = ""
    guard: bool = False

    @property
    def outcome(self) -> Outcome:
        if self.found is None:
            return Outcome.NOT_RUN
        if self.found.p is None or self.found.p >= ALPHA:
            return Outcome.NOT_SEPARABLE
        return Outcome.SUPPORTED if self.found.mean < 0 else Outcome.CONTRADICTED

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.what}: {self.missing or 'not run'}"
        found = self.found
        text = f"{self.what}: {found.mean:+.3g}"
        if found.low is not None:
            text += f" [{found.low:+.3g}, {found.high:+.3g}]"
        if found.relative is not None:
            text += f" ({found.relative:+.0%})"
        if found.p is None:
            return f"{text}, {found.n} {found.unit.removesuffix('s')}: no test"
        effect = "" if found.effect is None else f", d = {found.effect:+.1f}" if found.unit == "seeds" else f", z = {found.effect:+.1f}"
        many = f"{found.n} seeds" if found.unit == "seeds" else found.unit
        p = f"p = {found.p:.2g}" if found.p > 1e-12 else "p < 1e-12"
        return f"{text}, {p}{effect}, {many}: {self.outcome}"


@dataclass(frozen=True)
class Verdict:
    """A claim at one scale."""

    id: str
    text: str
    figure: str
    scale: str
    outcome: Outcome
    tests: tuple[Check, ...]

    def evidence(self, most: int = 8) -> list[str]:
        """The tests in words. Of many, how they came out and the weakest ones."""
        if len(self.tests) <= most:
            return [str(test) for test in self.tests]
        counts = {outcome: sum(test.outcome is outcome for test in self.tests) for outcome in Outcome}
        told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
        weakest = sorted(self.tests, key=_weakness)[: most - 3]
        return [f"{len(self.tests)} tests: {told}; the weakest:", *(str(test) for test in weakest)]


def _weakness(test: Check) -> float:
    if test.found is None:
        return -1.0
    p = 1.0 if test.found.p is None else test.found.p
    return p if test.found.mean > 0 else 2 - p  # reversed ones first, the surest of them at the head


def combine(tests: Sequence[Check]) -> Outcome:
    """The outcome of a conjunction of tests."""
    made = [test for test in tests if test.found is not None]
    if not made:
        return Outcome.NOT_RUN
    reversed_ = [test.found.p if test.found.mean > 0 and test.found.p is not None else 1.0 for test in made]
    if any(p < ALPHA for p in holm(reversed_)):
        return Outcome.CONTRADICTED
    if len(made) < len(tests):
        return Outcome.NOT_RUN
    supported = all(test.outcome is Outcome.SUPPORTED or test.guard for test in made)
    return Outcome.SUPPORTED if supported else Outcome.NOT_SEPARABLE


@dataclass(frozen=True)
class Evidence:
    """What a judge may look at. measured: harness.store.measurements.read, of this scale."""

    study: ExperimentCells
    numbers: Numbers
    measured: pd.DataFrame

    def data(self, claim: Mapping[str, Any]) -> list[str]:
        """The data sets that a claim is about at this scale."""
        named = claim.get("paper_data") if self.study.scale == "paper" else None
        sets = named or [*presets.scale(self.study.scale).table1]
        return [data for data in sets if data not in claim.get("except", ())]

    def main(self, data: str) -> str:
        return self.numbers.main(self.study.of(data))

    def title(self, data: str) -> str:
        return f"{paper_values.data_name(data)}, {METRICS[self.main(data)].title}"
