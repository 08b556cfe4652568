"""Numbers with standard errors: when one agrees with a known value, and how one is written."""

from __future__ import annotations

import math

AGREEMENT = 3.0
"""Standard errors within which a number agrees with its true value."""


def combined_error(*errors: float | None) -> float:
    """Standard error of a sum or difference of independent numbers; None stands for an exact number, NaN for an unknown error."""
    return math.hypot(*(error or 0.0 for error in errors))


def errors_away(value: float, truth: float, error: float | None = None, truth_error: float | None = None) -> float:
    """(value - truth) in units of their combined standard error.

    0 where both are equal to a relative 1e-9, infinite for exact numbers that differ, and NaN where an error is unknown (NaN).
    """
    if math.isclose(value, truth, rel_tol=1e-9):
        return 0.0
    gap, combined = value - truth, combined_error(error, truth_error)
    return gap / combined if combined else math.copysign(math.inf, gap)


def agrees(value: float, truth: float, error: float | None = None, truth_error: float | None = None, limit: float = AGREEMENT) -> bool:
    """Whether a number lies within `limit` combined standard errors of its true value; never where an error is unknown (NaN)."""
    return abs(errors_away(value, truth, error, truth_error)) <= limit


def plus_minus(value: float, error: float | None = None, digits: str = ".5g", error_digits: str = ".2g", sign: str = "±") -> str:
    """The text "value ± error", or the value alone where the error is None or NaN; `digits` are format specifications."""
    text = format(value, digits)
    return f"{text} {sign} {format(error, error_digits)}" if error is not None and not math.isnan(error) else text
