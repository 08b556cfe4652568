"""Verdicts on measured quantities: over training seeds, by one seed, without a seed, and of theorems. Closed forms: test_claims.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_claims import judge

from harness.reporting.verdicts import Outcome, Verdict
from harness.stats.differences import MONTE_CARLO, ONE_SEED, PAIRED, beyond, from_errors
from harness.store import measurements
from harness.store.measurements import MeasurementRow

LEVELS = (1.0, 5.0, 20.0)


def verdict(root: Path, claim: str, rows: Sequence[MeasurementRow]) -> Verdict:
    measurements.write(root, "digits", "measured", rows)
    return judge(root, claim)


def proxies(seeds: Sequence[int], gc: float = 0.5, spread: float = 0.01) -> list[MeasurementRow]:
    """Rtil by denoisers; GC's share of IC's falls with t from 1 to `gc`, batch-OT lies between."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in seeds:
        for t, fall in zip(LEVELS, (0.9, 0.6, 0.3), strict=True):
            for coupling, share in (("ic", 1.0), ("ot-64", 0.95), ("gc-0.5", fall * gc / 0.5)):
                value = share / t * (1 + spread * rng.standard_normal())
                row = MeasurementRow("rtil", "digits", value, coupling, x=t, se=1e-3 / t, n=8192, protocol="denoisers", seed=seed)
                rows.append(replace(row, run=f"{coupling}-{seed}"))
    return rows


def costs(seeds: Sequence[int | None], coupling: str = "gc-0.5", end: float = 60.0, ot: float = 90.0) -> list[MeasurementRow]:
    rng = np.random.default_rng(1)
    levels = {0.0: 110.0, 1.0: 100.0, 10.0: end + 1, 80.0: end}
    curve = [
        MeasurementRow(
            "cost", "digits", value + (0.3 * rng.standard_normal() if x else 0.0), coupling, x=x, se=0.1 * bool(x), n=1437, seed=seed
        )
        for seed in seeds
        for x, value in levels.items()
    ]
    flat = [MeasurementRow("cost", "digits", value, name, se=0.2, n=16) for name, value in (("ot-128", ot + 3), ("ot-512", ot))]
    return curve + flat


@pytest.mark.parametrize(("claim", "rows"), [("C5", proxies([0])), ("C6", costs([0]))], ids=["C5", "C6"])
def test_one_seed_decides_nothing_about_a_coupling(tmp_path, claim, rows):
    """The Monte-Carlo errors are a hundredth of the differences, which is no reason to call them significant."""
    result = verdict(tmp_path, claim, rows)
    assert result.outcome is Outcome.INCONCLUSIVE and "one seed" in result.summary
    assert {test.difference.unit for test in result.tests} == {ONE_SEED}
    assert all("one seed" in text for text in result.evidence()[1:])


@pytest.mark.parametrize(("claim", "rows"), [("C5", proxies(range(3))), ("C6", costs(range(3)))], ids=["C5", "C6"])
def test_three_seeds_support(tmp_path, claim, rows):
    result = verdict(tmp_path, claim, rows)
    assert result.outcome is Outcome.SUPPORTED, result.evidence()
    assert {(test.difference.unit, test.difference.n) for test in result.tests} == {(PAIRED, 3)}


def test_three_seeds_contradict(tmp_path):
    assert verdict(tmp_path, "C5", proxies(range(3), gc=1.2)).outcome is Outcome.CONTRADICTED
    assert verdict(tmp_path, "C6", costs(range(3), end=95.0)).outcome is Outcome.CONTRADICTED


def test_a_large_spread_over_seeds_is_inconclusive(tmp_path):
    """A normal test by the Monte-Carlo errors, or by the standard error over three seeds, would call some of it significant."""
    result = verdict(tmp_path, "C5", proxies(range(3), gc=0.52, spread=0.3))
    assert result.outcome is Outcome.INCONCLUSIVE and result.plan is not None


def test_what_has_no_seed_is_judged_by_its_monte_carlo_error(tmp_path):
    result = verdict(tmp_path, "C6", costs([None], "gc-ideal"))
    assert result.outcome is Outcome.SUPPORTED, result.evidence()
    assert {test.difference.unit for test in result.tests} == {MONTE_CARLO}


def test_gc_is_compared_with_every_size_of_batch_ot(tmp_path):
    titles = [test.what for test in verdict(tmp_path, "C6", costs(range(3))).tests]
    assert (
        sum("batch-OT" in title for title in titles) == 2
        and any("128" in title for title in titles)
        and any("512" in title for title in titles)
    )


def test_measurements_without_errors_are_not_judged(tmp_path):
    rows = [replace(row, se=None, seed=None) for row in costs([None], "gc-ideal")]
    result = verdict(tmp_path, "C6", rows)
    assert result.outcome is Outcome.INCONCLUSIVE and "error unknown" in result.summary


def theorem(value: float, se: float, seed: int | None = None, n: int = 12) -> list[MeasurementRow]:
    run = "" if seed is None else f"run-{seed}"
    ends = [MeasurementRow("theorem1", "digits", value + 1 / x, "ic", x=x, se=se, n=n, truth=1.0, seed=seed, run=run) for x in (8, 1e6)]
    return [*ends, MeasurementRow("discrepancy", "digits", 2.0, "ic", se=0.1, n=n, seed=seed, run=run)]


@pytest.mark.parametrize(
    ("value", "se", "outcome"),
    [
        (1.005, 0.004, Outcome.SUPPORTED),
        (1.029, 0.004, Outcome.INCONCLUSIVE),  # within 3 %, but not beyond its error
        (1.005, 0.03, Outcome.INCONCLUSIVE),
        (1.06, 0.004, Outcome.CONTRADICTED),
    ],
)
def test_a_theorem_is_met_by_two_one_sided_tests(tmp_path, value, se, outcome):
    assert verdict(tmp_path, "C11", theorem(value, se)).outcome is outcome


def test_every_network_is_a_case_of_a_theorem(tmp_path):
    """A theorem is about every function, so that one network is enough to contradict it, and each of several is tested."""
    rows = [row for seed in range(3) for row in theorem(1.005, 0.004, seed)]
    result = verdict(tmp_path, "C11", rows)
    assert result.outcome is Outcome.SUPPORTED and len(result.tests) == 6
    assert verdict(tmp_path, "C11", rows + theorem(1.2, 0.004, 3)).outcome is Outcome.CONTRADICTED


def test_few_draws_give_students_t(tmp_path):
    """A distance of 1.8 standard errors to the margin is significant (one-sided) with many draws, and not with three."""
    for n, outcome in ((3, Outcome.INCONCLUSIVE), (10_000, Outcome.SUPPORTED)):
        assert verdict(tmp_path, "C11", [replace(row, n=n) for row in theorem(1.0072, 0.0126)]).outcome is outcome
    assert beyond(from_errors(1.0072, 0.0126, 1.0, left_df=2), 0.03).p > 0.05 > beyond(from_errors(1.0072, 0.0126, 1.0), 0.03).p
