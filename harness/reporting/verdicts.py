"""Verdicts: the tests of a claim, how their results combine, and the evidence that a judge uses.

A claim is a conjunction of tests. Each test is about a difference left - right, which the claim says is negative:

    supported      the difference is negative, and its two-sided p is below 0.05
    contradicted   it is positive, and p is below 0.05 after Holm's correction over all tests of the claim
    equivalent     neither; and two one-sided tests, each at 0.05, place it within the margin on both sides of 0
    inconclusive   none of these, or no test was possible, as with one seed
    not run        its runs or measurements are missing

The claim itself is

    contradicted   when one of its tests is contradicted. Holm's correction is over the tests that were made; it keeps the chance of
                   contradicting a claim that holds in all of them below 0.05.
    not run        else when the runs of a test are missing
    supported      else when all its tests are supported. An intersection-union test needs no correction: a claim that fails in one test
                   is called supported with a chance of at most that one test's error.
    equivalent     else when each of its tests is supported or equivalent, so that at least one is equivalent: nothing is worse by more
                   than the margin, but not everything is better. It is an intersection-union test too.
    inconclusive   otherwise.

A guard (see ClaimTest) may contradict the claim; nothing else depends on it. Where a claim is about several data sets, each is also judged
by its own tests alone, and the verdict says on how many the claim is supported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

import pandas as pd

from harness.config import presets
from harness.data.catalogue import main_metric
from harness.reporting import paper_values
from harness.reporting.cells import ExperimentCells
from harness.reporting.paper_claims import Claim
from harness.reporting.tables import p_text, percent, signed
from harness.reporting.values import METRICS, CellValues
from harness.stats.differences import PAIRED, UNPAIRED, Difference, equivalent, holm
from harness.stats.intervals import ALPHA

RULES = (
    f"Every test is two-sided at alpha = {ALPHA:g}, on differences between runs of the same training seed (paired t test), in FID or, for "
    "points, W2. Measured quantities are tested over seeds where there are several, else by their Monte-Carlo errors. That a number equals "
    "a known one is shown by two one-sided tests, that its distance from it is below the claim's margin.",
    "supported: every test that the claim needs is significant (an intersection-union test needs no correction for their number).",
    "contradicted: at least one test is significant in the other direction, after Holm's correction for the number of tests of the claim.",
    "equivalent: every test is supported or within the margin by two one-sided tests (the margin is 5 % of the value compared with, unless "
    "the claim states another), and at least one is only within the margin.",
    "inconclusive: none of these. One training seed allows no test. The number of seeds that would decide is for a power of 80 %, from the "
    "spread over the seeds that were run.",
    "A claim about several data sets is judged on each by that data set's tests alone as well: supported over k of n data sets.",
    "A line of evidence has the difference, its 95 % interval in brackets, the share of the value compared with, p, the mean over the "
    "standard deviation of the differences (d) or over the standard error (t), and the number of seeds.",
    "The best value over training is the lowest of many noisy values, so that it is too good; no test uses it.",
)
"""How claims are judged, in words, for tables and the page."""


ONE_SEED = "one seed"
"""Why a difference of one training seed allows no test."""


class Outcome(StrEnum):
    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Effect:
    """A difference that a test should be able to find. size: its absolute value, in the unit of the test; words: what it is."""

    size: float
    words: str
    of_paper: bool = False


@dataclass(frozen=True)
class ClaimTest:
    """One test of a claim: the difference left - right, which the claim says is negative.

    Without a difference, `missing` says which runs or measurements the test lacks.
    """

    what: str
    difference: Difference | None
    missing: str = ""
    guard: bool = False
    """The claim only says that the difference is not positive: the test may contradict the claim but need not support it."""
    data: str = ""
    """The data set that it is about."""
    margin: float | None = None
    """Absolute differences below it count as none, in the unit of the difference. None where equivalence means nothing."""
    effects: tuple[Effect, ...] = ()
    """What more seeds should find, in the order of preference: the paper's effect where it gives one, then the margin."""

    @property
    def tested(self) -> bool:
        """Whether there is a test whose p counts; one seed allows none, whatever its Monte-Carlo error."""
        return self.difference is not None and self.difference.p is not None and not self.difference.one_seed

    @property
    def reason(self) -> str:
        """Why runs or measurements that exist allow no test: "one seed", for example; "" if there is a test or nothing to test."""
        difference = self.difference
        if difference is None or self.tested:
            return ""
        if difference.one_seed:
            return ONE_SEED
        return f"{difference.n} seeds with equal differences" if difference.unit in (PAIRED, UNPAIRED) else "error unknown"

    @property
    def within(self) -> bool:
        """Whether two one-sided tests place the difference within the margin."""
        return self.margin is not None and self.difference is not None and bool(equivalent(self.difference, self.margin))

    def label(self, outcome: Outcome) -> str:
        """The outcome in words, which for a guard says no more than that it does not contradict the claim."""
        return "not contradicted" if self.guard and outcome in (Outcome.INCONCLUSIVE, Outcome.EQUIVALENT) else str(outcome)

    def describe(self, outcome: Outcome, p_holm: float | None = None) -> str:
        """The test in words. p_holm: its p after Holm's correction, shown where it is against the claim and changes the outcome."""
        difference = self.difference
        if difference is None:
            return f"{self.what}: {self.missing or 'not run'}"
        text = f"{self.what}: {signed(difference.mean)}"
        share = "" if difference.relative is None else percent(difference.relative)
        if difference.p is None or not self.tested:
            return f"{text}{share and f' ({share})'}, {self.reason}: not tested"
        if difference.low is not None and difference.high is not None:
            text += f" [{signed(difference.low)}, {signed(difference.high)}]"
        text += f" ({share})" if share else ""
        seeds = difference.unit in (PAIRED, UNPAIRED)
        effect = "" if difference.effect is None else f", {'d' if seeds else 't'} = {signed(difference.effect, '.1f')}"
        count = f"{difference.n} {difference.unit}" if seeds else difference.unit
        p = p_text(difference.n, difference.p)
        against = p_holm is not None and difference.mean > 0 and difference.p < ALPHA <= p_holm
        corrected = f" ({p_holm:.2g} by Holm)" if against else ""
        within = f", within the margin of {self.margin:.2g}" if self.within else ""
        return f"{text}, {p}{corrected}{effect}, {count}: {self.label(outcome)}{within}"


def with_margin(claim: Claim, test: ClaimTest, size: float) -> ClaimTest:
    """The test with the claim's margin, of this size in the unit of its difference, as its margin and as its last effect. 0: no margin."""
    if not size or test.difference is None:
        return test
    return replace(test, margin=size, effects=(*test.effects, Effect(size, f"a difference of {claim.margin:.0%}, the margin,")))


@dataclass(frozen=True)
class SeedPlan:
    """What would decide an inconclusive claim, and what it costs."""

    seeds: int
    """Training seeds in all."""
    why: str
    """What they would do; {} stands for "N seeds"."""
    more: int = 0
    """Seeds beyond those that were run here; all of them where only published records exist."""
    runs: int = 0
    """Runs that are still to be trained."""
    hours: float | None = None
    """Hours of training on one device, by the runs that were timed here; None where none was."""
    command: str = ""
    """What trains them; "" where the plan is too large to be carried out or its experiment cannot be read."""

    def __str__(self) -> str:
        needed = self.why.replace("{}", f"{self.seeds:,} seeds")
        if not self.command:
            return needed
        seeds = f"{self.more:,} more seed{'s' * (self.more != 1)}, " if self.more < self.seeds else ""
        runs = f"{self.runs:,} run{'s' * (self.runs != 1)}{'' if seeds else ' to train here'}"
        return f"{needed}: {seeds}{runs}, {_duration(self.hours)}; {self.command}"


def _duration(hours: float | None) -> str:
    """Hours of training in words."""
    if hours is None:
        return "time unknown"
    if hours < 0.95:
        return f"{max(1, round(60 * hours))} min of training by the recorded times"
    return f"{hours:{'.1f' if hours < 9.95 else ',.0f'}} h of training by the recorded times"


@dataclass(frozen=True)
class Verdict:
    """A claim at one scale. plan: what would decide it, if it is inconclusive for want of seeds."""

    id: str
    text: str
    figure: str
    scale: str
    outcome: Outcome
    tests: tuple[ClaimTest, ...]
    experiment: str = ""
    plan: SeedPlan | None = None

    @cached_property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The outcomes of the tests."""
        return outcomes_of(self.tests)

    @property
    def judged_tests(self) -> list[tuple[ClaimTest, Outcome, float | None]]:
        """Each test with its outcome and its p against the claim after Holm's correction."""
        return list(zip(self.tests, self.outcomes, holm_against(self.tests), strict=True))

    @cached_property
    def by_data(self) -> dict[str, Outcome]:
        """The outcome on each data set, by the tests on it alone."""
        names = dict.fromkeys(test.data for test in self.tests)
        return {name: combine([test for test in self.tests if test.data == name]) for name in names}

    @property
    def summary(self) -> str:
        """The outcome, with the reason if no test was possible, and of several data sets on how many the claim is supported."""
        text = str(self.outcome)
        if self.outcome is Outcome.INCONCLUSIVE:
            open_tests = [test for test, outcome in zip(self.tests, self.outcomes, strict=True) if outcome is outcome.INCONCLUSIVE]
            reasons = [test.reason for test in open_tests if not test.guard and test.reason]
            some = f" in {len(reasons)} of {len(self.tests)} tests" if len(reasons) < len(self.tests) else ""
            text += f" ({reasons[0]}{some})" if reasons else ""
        supported = sum(outcome is Outcome.SUPPORTED for outcome in self.by_data.values())
        if supported and len(self.by_data) > 1:
            over = f"over {supported} of {len(self.by_data)} data sets"
            text += f" {over}" if self.outcome is Outcome.SUPPORTED else f"; supported {over}"
        return text

    @property
    def judged(self) -> bool:
        """Whether there is anything to say beyond that it was not run."""
        return any(test.difference for test in self.tests)

    @property
    def weakest(self) -> int | None:
        """The position of the test that decides the verdict, None without tests: a contradicting one, else the farthest from support."""
        return min(range(len(self.tests)), key=lambda i: _weakness(self.tests[i], self.outcomes[i]), default=None)

    def evidence(self, most: int = 8) -> list[str]:
        """The tests in words, then what would decide the claim; of more than `most` tests, how many have which outcome, and those least
        favourable to the claim."""
        texts = [test.describe(outcome, p_holm) for test, outcome, p_holm in self.judged_tests]
        if len(texts) > most:
            counts = Counter(test.label(outcome) for test, outcome in zip(self.tests, self.outcomes, strict=True))
            summary = ", ".join(f"{counts[label]} {label}" for label in [*Outcome, "not contradicted"] if counts[label])
            order = sorted(range(len(texts)), key=lambda i: _weakness(self.tests[i], self.outcomes[i]))
            texts = [f"{len(texts)} tests: {summary}; the least favourable:", *(texts[i] for i in order[: most - 3])]
        return [*texts, str(self.plan)] if self.plan else texts


def _weakness(test: ClaimTest, outcome: Outcome) -> tuple[int, float]:
    """Sorts contradicted tests first, then those without an answer, equivalent ones, supported ones; guards that are met come last."""
    ranks = (Outcome.CONTRADICTED, Outcome.NOT_RUN, Outcome.INCONCLUSIVE, Outcome.EQUIVALENT, Outcome.SUPPORTED)
    rank = len(ranks) if test.guard and outcome in ranks[2:] else ranks.index(outcome)
    difference = test.difference
    if difference is None or difference.p is None or not test.tested:
        return rank, -1.0
    return rank, difference.p if difference.mean > 0 else 2 - difference.p


def holm_against(tests: Sequence[ClaimTest]) -> list[float | None]:
    """Holm-adjusted p of each test that was made, that its difference is positive: two-sided p where the mean is positive, else 1."""
    against = {
        i: difference.p if difference.mean > 0 else 1.0
        for i, test in enumerate(tests)
        if test.tested and (difference := test.difference) and difference.p is not None
    }
    corrected = dict(zip(against, holm(list(against.values())), strict=True))
    return [corrected.get(i) for i in range(len(tests))]


def outcomes_of(tests: Sequence[ClaimTest]) -> tuple[Outcome, ...]:
    """The outcomes of tests of one claim, which share Holm's correction."""
    return tuple(_outcome(test, p) for test, p in zip(tests, holm_against(tests), strict=True))


def _outcome(test: ClaimTest, p_against: float | None) -> Outcome:
    difference = test.difference
    if difference is None:
        return Outcome.NOT_RUN
    if difference.p is None or p_against is None:
        return Outcome.INCONCLUSIVE
    if p_against < ALPHA:
        return Outcome.CONTRADICTED
    if difference.mean < 0 and difference.p < ALPHA:
        return Outcome.SUPPORTED
    return Outcome.EQUIVALENT if test.within else Outcome.INCONCLUSIVE


def combine(tests: Sequence[ClaimTest]) -> Outcome:
    """The outcome of a conjunction of tests."""
    outcomes = outcomes_of(tests)
    if Outcome.CONTRADICTED in outcomes:
        return Outcome.CONTRADICTED
    if Outcome.NOT_RUN in outcomes or not outcomes:
        return Outcome.NOT_RUN
    needed = {outcome for test, outcome in zip(tests, outcomes, strict=True) if not test.guard}
    if needed <= {Outcome.SUPPORTED}:
        return Outcome.SUPPORTED
    return Outcome.EQUIVALENT if needed <= {Outcome.SUPPORTED, Outcome.EQUIVALENT} else Outcome.INCONCLUSIVE


@dataclass(frozen=True)
class Evidence:
    """What claims are judged by at one scale. measured: its rows of `harness.store.measurements.read`."""

    experiment: ExperimentCells
    cell_values: CellValues
    measured: pd.DataFrame

    def data(self, claim: Claim) -> list[str]:
        """The data sets that a claim is about at this scale, or those that the selection names instead."""
        chosen = self.experiment.selection.data if self.experiment.selection else ()
        named = chosen or (claim.paper_data if self.experiment.scale == "paper" else ())
        sets = named or presets.scale(self.experiment.scale).table1
        return [data for data in sets if data not in claim.left_out]

    def title(self, data: str) -> str:
        return f"{paper_values.data_name(data)}, {METRICS[main_metric(data)].title}"
