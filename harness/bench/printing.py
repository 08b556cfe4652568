"""The benchmark in the terminal: a table for each part, and what changed since another one."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from harness.bench.breakdown import PART as BREAKDOWN
from harness.bench.compare import Change, is_ratio
from harness.bench.rows import SHARE, Row
from harness.stats.intervals import CONFIDENCE
from harness.stats.medians import MedianInterval


def number(value: float, unit: str) -> str:
    """A value with three digits; shares as percentages."""
    if unit == SHARE:
        return f"{100 * value:.1f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def interval(middle: MedianInterval, unit: str) -> str:
    """[low, high], with its confidence where that is below 95 %; "" for one value."""
    if middle.low is None or middle.high is None:
        return ""
    text = f"[{number(middle.low, unit)}, {number(middle.high, unit)}]"
    return text if middle.confidence >= CONFIDENCE else f"{text} {100 * middle.confidence:.0f} %"


def _table(*headers: str, left: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, justify="left" if header in left else "right", no_wrap=True)
    return table


def part_table(rows: Sequence[Row]) -> Table:
    """The rows of one part; those of the breakdown as stages x calls."""
    if rows and all(row.part == BREAKDOWN for row in rows):
        return _breakdown(rows)
    table = _table("of", "what", "median", "unit", "95 % interval", "rounds", "expected", left=("of", "what", "unit", "expected"))
    for row in rows:
        middle = row.median
        values = number(middle.median, row.unit), row.unit, interval(middle, row.unit), str(middle.n)
        table.add_row(row.shape, row.name, *values, row.expected)
    return table


def _breakdown(rows: Sequence[Row]) -> Table:
    """Medians of the shares: one column for each call of each shape. They need not add up to exactly 100 %."""
    names = [row.name.rpartition(": ") for row in rows]
    calls = list(dict.fromkeys((row.shape, name[0]) for row, name in zip(rows, names, strict=True)))
    stages = list(dict.fromkeys(name[2] for name in names))
    shares = {(row.shape, name[0], name[2]): row for row, name in zip(rows, names, strict=True)}
    table = _table("% of a step", *(f"{shape}: {call}" for shape, call in calls), left=("% of a step",))
    for stage in stages:
        cells = [shares.get((*call, stage)) for call in calls]
        table.add_row(stage, *("-" if row is None else number(row.median.median, row.unit) for row in cells))
    return table


def compare_table(changes: Sequence[Change]) -> Table:
    """Ratios first, then times and rates, which also show what else the machines did."""
    headers = ("part", "of", "what", "old", "new", "unit", "new / old", "95 % interval", "outcome")
    table = _table(*headers, left=("part", "of", "what", "unit", "outcome"))
    for change in sorted(changes, key=lambda change: not is_ratio(change.new)):
        old, new, unit = change.old, change.new, change.new.unit
        if change.factor is None:
            size = f"{'+' * (change.difference.mean > 0)}{number(change.difference.mean, unit)} {unit}"
        else:
            size = f"{change.factor:.3f}"
        bounds = change.low_high
        within = "" if bounds is None else f"[{bounds[0]:.3f}, {bounds[1]:.3f}]"
        values = number(old.median.median, unit), number(new.median.median, unit), unit
        table.add_row(new.part, new.shape, new.name, *values, size, within, change.outcome)
    return table
