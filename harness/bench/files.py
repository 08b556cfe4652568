"""The JSON file of a benchmark: what was measured, on which machine, by which code, and every value of every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.bench.rows import Row
from harness.errors import DamagedFile
from harness.store.fields import is_number
from harness.store.files import disk_errors, read_json, write_json

FORMAT = 1
"""Version of the file."""


@dataclass(frozen=True)
class Results:
    """One benchmark. about: device, threads, versions, commit, settings. notes: what was not measured, and why."""

    about: Mapping[str, Any]
    rows: Sequence[Row] = ()
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def machine(self) -> str:
        """What speeds depend on; rates of different machines are not comparable, and ratios only with care."""
        return f"{self.about.get('device')}, {self.about.get('threads')} threads, torch {self.about.get('torch')}"


def write(path: Path, results: Results) -> None:
    """Writes the file, complete or not at all. Each row also has its median and interval, for readers without this package."""
    rows = []
    for row in results.rows:
        middle = row.median
        summary = {"median": middle.median, "low": middle.low, "high": middle.high, "n": middle.n, "confidence": middle.confidence}
        names = {"part": row.part, "shape": row.shape, "name": row.name, "unit": row.unit, "expected": row.expected}
        rows.append({**names, **summary, "values": list(row.values)})
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"format": FORMAT, "about": dict(results.about), "rows": rows, "notes": list(results.notes)})


def read(path: Path) -> Results:
    """The benchmark in a file. Raises HarnessError if it is missing, damaged or of another kind."""
    content = read_json(path)
    if content.get("format") != FORMAT or not isinstance(content.get("rows"), list) or not isinstance(content.get("about"), dict):
        raise DamagedFile(
            "not a benchmark", where=path, found=f"format {content.get('format')}", expected="a file that harness bench wrote"
        )
    rows = []
    for number, entry in enumerate(content["rows"], start=1):
        row = _row(entry) if isinstance(entry, dict) else None
        if row is None:
            raise DamagedFile("a row of this benchmark is damaged", where=path, found=f"row {number}", expected="names and finite values")
        rows.append(row)
    return Results(content["about"], rows, [str(note) for note in content.get("notes") or ()])


def _row(entry: Mapping[str, Any]) -> Row | None:
    """The row of a JSON object; None if a name is missing or a value is no finite number."""
    names = [entry.get(key) for key in ("part", "shape", "name", "unit", "expected")]
    values = entry.get("values")
    if not all(isinstance(name, str) for name in names) or not isinstance(values, list) or not values or not all(map(is_number, values)):
        return None
    part, shape, name, unit, expected = map(str, names)
    return Row(part, shape, name, unit, tuple(map(float, values)), expected)
