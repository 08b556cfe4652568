"""The paper's claims judged from records: each by a stated test over training seeds, at one scale.

A claim is a conjunction of tests. It is supported when every test it asks for is there and significant (an intersection-union test needs
no correction), contradicted when one is significant the other way round (Holm's correction over its tests), else not separable; not run
when a test lacks its runs and none contradicts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from harness.reporting import reference
from harness.reporting.cells import Study
from harness.reporting.stats import ALPHA, Paired, holm, paired
from harness.reporting.values import METRICS, Numbers


class Outcome(StrEnum):
    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    NOT_SEPARABLE = "not separable"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Test:
    """One test: `found` is left - right on equal seeds, and the claim says that it is negative. missing: why it cannot be made."""

    what: str
    found: Paired | None
    missing: str = ""

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
            return f"{text}, one seed: no test over seeds"
        effect = "" if found.effect is None else f", d = {found.effect:+.1f}"
        return f"{text}, p = {found.p:.2g}{effect}, {found.n} seeds: {self.outcome}"


@dataclass(frozen=True)
class Verdict:
    """A claim at one scale."""

    id: str
    text: str
    figure: str
    scale: str
    outcome: Outcome
    tests: tuple[Test, ...]
    note: str = ""


def combine(tests: Sequence[Test]) -> Outcome:
    """The outcome of a conjunction of tests."""
    made = [test for test in tests if test.found is not None]
    if not made:
        return Outcome.NOT_RUN
    corrected = holm([1.0 if test.found.p is None else test.found.p for test in made])
    if any(p < ALPHA and test.found.mean > 0 for p, test in zip(corrected, made, strict=True)):
        return Outcome.CONTRADICTED
    if len(made) < len(tests):
        return Outcome.NOT_RUN
    supported = all(test.outcome is Outcome.SUPPORTED for test in made)
    return Outcome.SUPPORTED if supported else Outcome.NOT_SEPARABLE


Judge = Callable[[Mapping[str, Any], Study, Numbers], list[Test]]


def better(claim: Mapping[str, Any], study: Study, numbers: Numbers) -> list[Test]:
    """The final main metric of `left` lies below that of each of `right`, on every data set but those in `except`."""
    tests = []
    for data in study.data:
        if data in claim.get("except", ()):
            continue
        tests += [compare(study, numbers, data, claim["left"], right) for right in claim["right"]]
    return tests


def compare(study: Study, numbers: Numbers, data: str, left: str, right: str) -> Test:
    """Final values of two cells of a data set, by seed, under one protocol."""
    cells = [cell for key in (left, right) if (cell := study.cell(data, key))]
    column = numbers.column(cells, numbers.main(cells or study.of(data)))
    what = f"{reference.data_name(data)}, {METRICS[column.metric].title}, {left} - {right}"
    values = [column.cells[key].values if key in column.cells else {} for key in (left, right)]
    found = paired(*values)
    absent = [key for key, value in zip((left, right), values, strict=True) if not value]
    missing = f"{' and '.join(absent)} not run" if absent else "no seed in common"
    return Test(what, found, "" if found else missing)


JUDGES: dict[str, Judge] = {"better": better}


def judge(study: Study, numbers: Numbers, only: Sequence[str] | None = None) -> list[Verdict]:
    """The claims of results/paper.toml, or those of these ids, at the study's scale."""
    verdicts = []
    for claim in reference.paper()["claims"]:
        if (only is None or claim["id"] in only) and claim["judge"] in JUDGES:
            tests = JUDGES[claim["judge"]](claim, study, numbers)
            verdicts.append(Verdict(claim["id"], claim["text"], claim["figure"], study.scale, combine(tests), tuple(tests)))
    return verdicts
