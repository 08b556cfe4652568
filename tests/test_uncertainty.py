"""Numbers with errors: agreement with a known value, and how they are written."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from harness.stats.uncertainty import agrees, combined_error, errors_away, plus_minus


def test_errors_combine_in_squares_and_none_is_exact():
    assert combined_error(3.0, 4.0) == 5.0 and combined_error(None, 4.0) == 4.0 and combined_error(None, None) == 0.0
    assert math.isnan(combined_error(math.nan, 1.0))


@pytest.mark.parametrize(
    ("numbers", "away"),
    [
        ((1.0, 1.2, 0.1), -2.0),
        ((2.0, 1.0, 0.3, 0.4), 2.0),
        ((1.0, 1.0 + 1e-12), 0.0),
        ((2.0, 1.0), math.inf),
        ((-2.0, 1.0, 0.0), -math.inf),
    ],
)
def test_distances_in_standard_errors(numbers, away):
    assert errors_away(*numbers) == pytest.approx(away)
    assert agrees(*numbers) == (abs(away) <= 3)


@pytest.mark.parametrize(("draws", "away"), [(2, 1.3), (8, 2.3), (10_000, 3.0)])
def test_an_error_from_few_draws_allows_a_greater_distance(draws, away):
    expected = stats.norm.isf(stats.t.sf(3, draws - 1))
    assert expected == pytest.approx(away, abs=0.05)
    for sign in (1, -1):
        assert errors_away(1 + 0.3 * sign, 1.0, 0.1, df=draws - 1) == pytest.approx(sign * expected, rel=1e-6)
    assert agrees(1.4, 1.0, 0.1, df=7) and not agrees(1.4, 1.0, 0.1)
    # where the error of the truth dominates, the draws of the value do not matter
    assert errors_away(4.0, 1.0, 1e-3, 1.0, df=1) == pytest.approx(3.0, rel=1e-3)
    assert errors_away(1e9, 1.0, 0.1, df=2) > 3 and math.isnan(errors_away(2.0, 1.0, math.nan, df=3))


def test_an_unknown_error_agrees_with_nothing_but_the_value_itself():
    assert not agrees(1.0, 1.001, math.nan) and not agrees(1.0, 1.001, 1.0, math.nan) and agrees(1.0, 1.0, math.nan)


def test_the_limit_may_be_another():
    assert agrees(1.0, 1.4, 0.1, limit=5.0) and not agrees(1.0, 1.4, 0.1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [((123.456789, 0.0123), "123.46 ± 0.012"), ((1.5,), "1.5"), ((1.5, math.nan), "1.5"), ((1.5, 0.0), "1.5 ± 0"),
     ((2.345, 0.678, ".2f", ".2f", "+-"), "2.35 +- 0.68")],
)  # fmt: skip
def test_numbers_as_text(arguments, text):
    assert plus_minus(*arguments) == text
