"""The result of a benchmark: rows of repeated values, each with its median and an interval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.stats.medians import MedianInterval, median_interval

RATIO, SECONDS, SHARE, MEBIBYTES = "x", "s", "%", "MiB"
"""Units. A share is stored as a fraction of 1."""


@dataclass(frozen=True)
class Row:
    """What was measured, one value per round. expected: what the paper, or a bar that the project has set itself, says."""

    part: str
    shape: str
    name: str
    unit: str
    values: tuple[float, ...]
    expected: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Rows of two benchmarks with equal keys are compared."""
        return self.part, self.shape, self.name, self.unit

    @cached_property
    def median(self) -> MedianInterval:
        return median_interval(self.values)


def row(part: str, shape: str, name: str, unit: str, values: Sequence[float] | Iterable[float], expected: str = "") -> Row:
    """A Row of these values, of which there is at least one."""
    return Row(part, shape, name, unit, tuple(float(value) for value in values), expected)


def ratio(part: str, shape: str, name: str, above: Sequence[float], below: Sequence[float], expected: str = "") -> Row:
    """The ratio of two calls of the same rounds."""
    return row(part, shape, name, RATIO, [a / b for a, b in zip(above, below, strict=True)], expected)
