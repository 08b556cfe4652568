"""How tests combine into verdicts, and how verdicts are written."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from harness.reporting.overview import claim_tests_table, claims_table
from harness.reporting.tables import percent
from harness.reporting.verdicts import RULES, ClaimTest, Outcome, SeedPlan, Verdict, combine, outcomes_of
from harness.stats.differences import MONTE_CARLO, ONE_SEED, Difference, paired


def claim_test(p: float | None, mean: float = -1.0, guard: bool = False, se: float | None = None, data: str = "") -> ClaimTest:
    """A test of margin 0.5 with this p. se: for the test of equivalence, with 1,000 degrees of freedom."""
    difference = Difference(mean, 3, p=p, se=se, df=None if se is None else 1000.0)
    return ClaimTest("x", difference, guard=guard, margin=0.5, data=data)


SAME = claim_test(0.32, mean=-0.1, se=0.1)
NOT_RUN = ClaimTest("y", None, "not run")
ONE = ClaimTest("z", Difference(-1.0, 1), margin=0.5)


@pytest.mark.parametrize(
    ("tests", "outcome"),
    [
        ([], "not run"),
        ([claim_test(0.01), NOT_RUN], "not run"),
        ([claim_test(0.01), claim_test(0.04)], "supported"),
        ([claim_test(0.04)] * 20, "supported"),  # an intersection-union test needs no correction
        ([claim_test(0.01), claim_test(0.06)], "inconclusive"),
        ([claim_test(0.01), claim_test(0.02, +1)], "contradicted"),
        ([claim_test(0.01), claim_test(0.04, +1)], "inconclusive"),  # Holm: 0.04 of two is not enough to contradict
        ([claim_test(0.5, +1)] * 9 + [claim_test(0.004, +1)], "contradicted"),
        ([claim_test(0.5, +1)] * 9 + [claim_test(0.006, +1)], "inconclusive"),
        ([claim_test(0.001, +1), NOT_RUN], "contradicted"),
        ([claim_test(0.01), claim_test(0.9, +1, guard=True)], "supported"),
        ([claim_test(0.01), claim_test(0.001, +1, guard=True)], "contradicted"),
        ([SAME], "equivalent"),
        ([SAME, claim_test(0.01)], "equivalent"),
        ([SAME, claim_test(0.3)], "inconclusive"),
        ([SAME, claim_test(0.001, +1)], "contradicted"),
        ([replace(SAME, margin=0.2)], "inconclusive"),
        ([replace(SAME, margin=None)], "inconclusive"),
        ([claim_test(0.001, +0.1, se=0.03)], "contradicted"),  # a significant difference counts even within the margin
        ([claim_test(None)], "inconclusive"),
        ([ONE], "inconclusive"),
        ([ONE, claim_test(0.01)], "inconclusive"),
        ([ClaimTest("one network", Difference(5.0, 1, unit=ONE_SEED, p=1e-9, se=0.1, df=99.0))], "inconclusive"),
    ],
)
def test_how_tests_combine(tests, outcome):
    assert combine(tests) == outcome


def test_the_p_of_a_contradicting_test_is_corrected_by_the_tests_that_were_made():
    tests = [claim_test(0.02, +1), claim_test(0.3), claim_test(0.6, +1), ONE, NOT_RUN]
    assert outcomes_of(tests)[0] is Outcome.INCONCLUSIVE  # 3 * 0.02 = 0.06
    assert "0.06 by Holm" in verdict_of(tests).evidence()[0]
    assert outcomes_of(tests[:2])[0] is Outcome.CONTRADICTED  # 2 * 0.02 = 0.04


def verdict_of(tests: list[ClaimTest], plan: SeedPlan | None = None) -> Verdict:
    return Verdict("C3", "text", "Figure 5", "digits", combine(tests), tuple(tests), "sweep_mu", plan)


def test_many_tests_are_summarised():
    lines = verdict_of([claim_test(0.01) for _ in range(20)]).evidence()
    assert len(lines) < 8
    assert lines[0] == "20 tests: 20 supported; the least favourable:"


def test_a_guard_that_is_met_is_not_called_inconclusive():
    guard = claim_test(0.9, +1, guard=True)
    assert verdict_of([claim_test(0.01), guard]).evidence()[1].endswith("not contradicted")


def test_every_data_set_is_judged_by_its_own_tests():
    tests = [claim_test(0.01, data=name) for name in ("a", "b")] + [claim_test(0.03, +1, data="c"), claim_test(0.4, data="d")]
    verdict = verdict_of(tests)
    assert verdict.by_data == {"a": "supported", "b": "supported", "c": "contradicted", "d": "inconclusive"}
    assert verdict.outcome is Outcome.INCONCLUSIVE  # 4 * 0.03 > 0.05
    assert verdict.summary == "inconclusive; supported over 2 of 4 data sets"
    assert verdict_of(tests[:2]).summary == "supported over 2 of 2 data sets"
    assert verdict_of(tests[:1]).summary == "supported"
    assert verdict_of([*tests[:2], replace(NOT_RUN, data="e")]).summary == "not run; supported over 2 of 3 data sets"


def test_one_seed_is_named_and_has_no_p():
    verdict = verdict_of([ONE])
    assert verdict.summary == "inconclusive (one seed)"
    assert not re.search(r"\bp [=<]|\[", " ".join(verdict.evidence()))
    assert verdict_of([ONE, claim_test(0.01)]).summary == "inconclusive (one seed in 1 of 2 tests)"
    row = claims_table([verdict]).data.iloc[0]
    assert (row.outcome, row.n) == ("inconclusive", 1)
    assert row[["low", "high", "p", "seeds_needed"]].isna().all()


def test_measurements_without_errors_are_inconclusive_and_say_so():
    difference = Difference(-2.0, 1, unit="estimate of unknown error")
    assert verdict_of([ClaimTest("x", difference)]).summary == "inconclusive (error unknown)"
    assert verdict_of([ClaimTest("x", Difference(-2.0, 3))]).summary == "inconclusive (3 seeds with equal differences)"


def test_numbers_come_with_their_n():
    tests = [ONE, claim_test(0.3), SAME, ClaimTest("m", Difference(1.0, 1, unit=MONTE_CARLO, low=0.5, high=1.5, p=0.01, se=0.2, df=9.0))]
    for line in verdict_of(tests).evidence():
        assert re.search(r"one seed|\d+ seeds|Monte-Carlo estimate", line), line


def test_the_csv_has_the_numbers_of_the_deciding_test():
    plan = SeedPlan(12, "{} would decide it", 9, 27, 0.8, "harness sweep table1 --seeds 12")
    left, right = {0: 1.0, 1: 1.2, 2: 0.9}, {0: 1.1, 1: 1.0, 2: 1.0}
    test = ClaimTest("deciding", paired(left, right), margin=0.05)
    row = claims_table([verdict_of([claim_test(0.01), test], plan)]).data.iloc[0]
    assert (row.test, row.n, row.margin) == ("deciding", 3, 0.05)
    assert row.effect == pytest.approx(0.0, abs=1e-12)
    assert row.low == pytest.approx(-row.high)
    assert (row.seeds_needed, row.runs_needed, row.hours, row.command) == (12, 27, 0.8, plan.command)
    assert "12 seeds would decide it: 9 more seeds, 27 runs, 48 min" in row.evidence


def test_every_test_is_in_a_file_of_its_own():
    tests = [claim_test(0.02, +1, data="a"), claim_test(0.3, data="b"), ONE, NOT_RUN]
    rows = claim_tests_table([verdict_of(tests)]).data
    assert rows.outcome.tolist() == ["contradicted", "inconclusive", "inconclusive", "not run"]
    assert rows.p_holm.dropna().tolist() == pytest.approx([0.04, 1.0])
    assert rows.p.dropna().tolist() == [0.02, 0.3]
    assert rows.n.tolist()[:3] == [3, 3, 1]


def test_the_rules_name_every_outcome_and_correction():
    text = " ".join(RULES)
    assert all(word in text for word in ("supported", "contradicted", "equivalent", "inconclusive", "Holm", "intersection-union", "5 %"))
    assert tuple(claims_table([verdict_of([ONE])]).notes) == RULES


@given(st.floats(-12, 12, allow_nan=False))
@example(0.015625)
@example(-0.00152)
def test_percentages_have_a_sign_and_a_meaning(share):
    text, size = percent(share), abs(100 * share)
    half_a_digit = 0.5 if size >= 0.95 else 0.05 if size >= 0.095 else 0.005  # in per cent
    assert not re.fullmatch(r"-0(\.0*)?%", text)
    assert bool(text) == (abs(share) <= 10)
    if text:
        value = float(text.rstrip("%")) / 100
        assert value == pytest.approx(share, rel=1e-12, abs=1.000001 * half_a_digit / 100)
        assert value == 0 or (text[0] == "+") == (share > 0)


NUMBERS = st.integers(50, 200).map(lambda count: count / 100)
VALUES = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=6)


def paired_tests(pairs: list[list[tuple[float, float]]], factor: float = 1.0) -> list[ClaimTest]:
    """One paired test per list of (left, right), with a margin of 5 % of right."""
    tests = []
    for values in pairs:
        left, right = ({seed: factor * pair[side] for seed, pair in enumerate(values)} for side in (0, 1))
        tests.append(ClaimTest("x", paired(left, right), margin=0.05 * sum(right.values()) / len(right)))
    return tests


@settings(max_examples=60)
@given(st.lists(VALUES, min_size=1, max_size=4), st.floats(1e-3, 1e3), st.randoms())
def test_units_and_orders_do_not_change_a_verdict(pairs, factor, random):
    tests = paired_tests(pairs)
    assume(all(abs(test.difference.p - 0.05) > 0.01 for test in tests if test.difference.p is not None))
    outcome = combine(tests)
    assert combine(paired_tests(pairs, factor)) == outcome
    shuffled = [random.sample(values, len(values)) for values in random.sample(pairs, len(pairs))]
    assert combine(paired_tests(shuffled)) == outcome


@settings(max_examples=60)
@given(st.lists(VALUES, min_size=1, max_size=3), st.integers(2, 3))
def test_more_seeds_with_the_same_values_never_undo_a_decision(pairs, times):
    before, after = combine(paired_tests(pairs)), combine(paired_tests([values * times for values in pairs]))
    assert before is Outcome.INCONCLUSIVE or after is not Outcome.INCONCLUSIVE
    if before in (Outcome.SUPPORTED, Outcome.CONTRADICTED):
        assert after is before


SEEDS_AT_HAND = (2, 3, 5, 10)


def rate(outcome: Outcome, n: int, effects: list[float], margin: float | None = None, repeats: int = 600) -> float:
    """How often paired tests of n seeds, whose differences have these means and standard deviation 1, end in this verdict."""
    rng = np.random.default_rng([n, len(effects)])
    count = 0
    for _ in range(repeats):
        draws = rng.standard_normal((len(effects), n)) + np.array(effects)[:, None]
        tests = [ClaimTest("x", paired(dict(enumerate(row)), dict.fromkeys(range(n), 0.0)), margin=margin) for row in draws]
        count += combine(tests) is outcome
    print(f"{outcome} with {n} seeds at effects {effects}, margin {margin}: {count / repeats:.1%} of {repeats}")
    return count / repeats


@pytest.mark.parametrize("n", SEEDS_AT_HAND)
def test_verdicts_err_in_at_most_5_percent_of_cases(n):
    """Simulated: a claim that is false in one test is rarely supported, one that just holds nowhere rarely contradicted, and one that is
    worse by exactly the margin rarely equivalent."""
    most = 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)
    assert rate(Outcome.SUPPORTED, n, [0.0, -30.0, -30.0]) <= most
    assert rate(Outcome.CONTRADICTED, n, [0.0] * 5) <= most
    assert rate(Outcome.EQUIVALENT, n, [1.0], margin=1.0) <= most
    assert rate(Outcome.EQUIVALENT, n, [0.0], margin=40.0) > 0.8
