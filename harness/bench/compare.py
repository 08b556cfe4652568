"""What changed between two benchmarks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.bench.files import Results
from harness.bench.rows import RATIO, SHARE, Row
from harness.stats.differences import Difference, holm, unpaired
from harness.stats.intervals import ALPHA


@dataclass(frozen=True)
class Change:
    """A row of two benchmarks. factor: new over old (geometric means); None where a value is not positive, and `difference` is new - old.

    p: of the two-sided t test on the logarithms (or values), adjusted by Holm's method for the number of rows; None without a test.
    """

    old: Row
    new: Row
    factor: float | None
    difference: Difference
    p: float | None = None

    @property
    def low_high(self) -> tuple[float, float] | None:
        """The 95 % interval of the factor or difference; None without one."""
        if self.difference.low is None or self.difference.high is None:
            return None
        low, high = self.difference.low, self.difference.high
        return (low, high) if self.factor is None else (math.exp(low), math.exp(high))

    @property
    def outcome(self) -> str:
        """changed, no change shown, or not tested: one round of a benchmark allows no test."""
        if self.p is None:
            return "not tested"
        return "changed" if self.p < ALPHA else "no change shown"


def changes(old: Results, new: Results) -> list[Change]:
    """The rows that both have, in the order of the new one.

    Times and rates depend on what else a machine does. Between two benchmarks they are tested like ratios, but a change of the load is a
    change too: judge by the ratios (`is_ratio`).
    """
    before = {row.key: row for row in old.rows}
    found = [_change(before[row.key], row) for row in new.rows if row.key in before]
    tested = [change for change in found if change.difference.p is not None]
    adjusted = iter(holm([change.difference.p for change in tested if change.difference.p is not None]))
    return [change if change.difference.p is None else replace(change, p=next(adjusted)) for change in found]


def only_in_one(old: Results, new: Results) -> tuple[list[Row], list[Row]]:
    """The rows that only the old and only the new benchmark has."""
    keys_old, keys_new = {row.key for row in old.rows}, {row.key for row in new.rows}
    return [row for row in old.rows if row.key not in keys_new], [row for row in new.rows if row.key not in keys_old]


def is_ratio(row: Row) -> bool:
    """Whether a row is a ratio or share of calls that alternated, so that other load on the machine hardly matters."""
    return row.unit in (RATIO, SHARE)


def _change(old: Row, new: Row) -> Change:
    positive = min(*old.values, *new.values) > 0
    sides: list[Sequence[float]] = [[math.log(value) for value in row.values] if positive else row.values for row in (new, old)]
    difference = unpaired(*sides)
    return Change(old, new, math.exp(difference.mean) if positive else None, difference)
