"""The schema of a training record, one JSON line of records.jsonl. Training writes records and reporting reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from harness.store.fields import LARGEST, LARGEST_COUNT, is_number

RecordSet = Literal["own", "published", "both"]
"""Which records are read: those of the runs below results/runs, those below results/published, or both pooled."""
RECORD_SETS: tuple[RecordSet, ...] = get_args(RecordSet)


@dataclass(frozen=True, slots=True)
class Record:
    """One measurement of one run at one step, its fields in the order in which they are stored."""

    run: str
    """Run id."""
    step: int
    images: int | None
    """Training images seen up to this step."""
    seconds: float | None
    """Seconds of training up to this step, evaluations excluded, over all starts of the run."""
    metric: str
    value: float
    """Mean over the resamplings; finite in every valid record."""
    sd: float | None
    """Standard deviation over the resamplings."""
    se: float | None
    """Standard error of the value."""
    n: int | None
    """Generated samples of one resampling; of `pair_cost` training pairs, of `loss` training steps."""
    resamplings: int | None
    final: bool
    """One of the resampled measurements of the last model, not a point of the curve."""
    protocol: str
    """Hash of how the value was measured; values of different protocols are not comparable."""
    check: str | None = None
    """Checksum that continues that of the record before (harness.store.chain); None in records of earlier versions."""

    @property
    def key(self) -> tuple[int, str, bool]:
        """Step, metric and final: each combination is recorded once per run."""
        return self.step, self.metric, self.final

    def to_json(self) -> dict[str, Any]:
        """The JSON object of this record, in the order of FIELDS; without `check` if it has none."""
        return {name: value for name, value in asdict(self).items() if name != "check" or value is not None}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Record:
        """The record of a `valid` JSON object; unknown fields are dropped."""
        return cls(*map(row.get, FIELDS))  # type: ignore[arg-type]  # `valid` checks the types


def few_step_name(metric: str, steps: int) -> str:
    """The metric's name for samples of several steps, such as fid/2-steps; for one step, the metric itself."""
    return metric if steps == 1 else f"{metric}/{steps}-steps"


def parted_name(name: str) -> tuple[str, int]:
    """The metric and the number of steps of a name of `few_step_name`: fid, 2 for fid/2-steps, and fid, 1 for fid."""
    match = re.fullmatch(r"(.+)/(\d+)-steps", name)
    return (match[1], int(match[2])) if match else (name, 1)


FIELDS = tuple(field.name for field in fields(Record))
"""The fields of a record, in the order in which they are stored."""
NUMBERS = ("step", "images", "seconds", "value", "sd", "se", "n", "resamplings")
TYPES: dict[str, frozenset[type]] = {
    **{name: frozenset({int, float, type(None)}) for name in NUMBERS},
    "step": frozenset({int}),
    "value": frozenset({int, float}),
    "metric": frozenset({str}),
    "final": frozenset({bool}),
    "protocol": frozenset({str}),
    "check": frozenset({str, type(None)}),
}
"""Permitted JSON types of each field but `run`, which the name of the run folder states as well."""


def valid(row: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a record: all fields have the types in TYPES, all numbers are finite and of a size that occurs, and a
    standard deviation over resamplings names their number."""
    if not all(type(row.get(name)) in types for name, types in TYPES.items()):
        return False
    numbers = (row[name] for name in NUMBERS if row.get(name) is not None)
    return all(map(is_number, numbers)) and (row.get("sd") is None or row.get("resamplings") is not None)


def valid_columns(rows: Sequence[Mapping[str, Any]]) -> list[list[Any]] | None:
    """The columns of FIELDS but `run`, if all rows are `valid`, else None. For many rows: by columns, it takes a tenth of the time."""
    columns = {name: [row.get(name) for row in rows] for name in FIELDS[1:]}
    for name, column in columns.items():
        kinds = set(map(type, column))
        if not kinds <= TYPES[name]:
            return None
        if name in NUMBERS:
            whole = [value for value in column if type(value) is int]
            if whole and max(max(whole), -min(whole)) > LARGEST_COUNT:
                return None
            if float in kinds and not all(-LARGEST <= value <= LARGEST for value in column if type(value) is float):  # false for nan
                return None
    if any(sd is not None and count is None for sd, count in zip(columns["sd"], columns["resamplings"], strict=True)):
        return None
    return list(columns.values())
