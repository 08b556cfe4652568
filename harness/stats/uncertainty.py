"""Numbers with standard errors: when one agrees with a known value, and how one is written."""

from __future__ import annotations

import math

from scipy.special import ndtri

from harness.stats import student
from harness.stats.student import MOST_DF

AGREEMENT = 3.0
"""Standard errors within which a number agrees with its true value."""


def combined_error(*errors: float | None) -> float:
    """Standard error of a sum or difference of independent numbers; None stands for an exact number, NaN for an unknown error."""
    return math.hypot(*(error or 0.0 for error in errors))


def errors_away(value: float, truth: float, error: float | None = None, truth_error: float | None = None, df: float = math.inf) -> float:
    """(value - truth) in units of their combined standard error.

    df: degrees of freedom of `error`. Where a few draws estimate it, this is the normal deviate with the probability that Student's t
    gives to the distance, so that one limit serves all numbers: 3 standard errors from 8 draws are 2.3, from two draws 1.3.

    0 where both are equal to a relative 1e-9, infinite for exact numbers that differ, and NaN where an error is unknown (NaN).
    """
    if math.isclose(value, truth, rel_tol=1e-9):
        return 0.0
    gap, combined = value - truth, combined_error(error, truth_error)
    if not combined:
        return math.copysign(math.inf, gap)
    away = gap / combined
    if math.isnan(away) or not error or df >= MOST_DF:
        return away
    _, freedom = student.combined([(error**2, df), ((truth_error or 0.0) ** 2, math.inf)])
    tail = float(student.p_value(gap, combined, freedom)) / 2
    return math.copysign(-float(ndtri(tail)), gap) if tail > 0 else away


def agrees(
    value: float,
    truth: float,
    error: float | None = None,
    truth_error: float | None = None,
    limit: float = AGREEMENT,
    df: float = math.inf,
) -> bool:
    """Whether a number lies within `limit` combined standard errors of its true value; never where an error is unknown (NaN)."""
    return abs(errors_away(value, truth, error, truth_error, df)) <= limit


def plus_minus(value: float, error: float | None = None, digits: str = ".5g", error_digits: str = ".2g", sign: str = "±") -> str:
    """The text "value ± error", or the value alone where the error is None or NaN; `digits` are format specifications."""
    text = format(value, digits)
    return f"{text} {sign} {format(error, error_digits)}" if error is not None and not math.isnan(error) else text
