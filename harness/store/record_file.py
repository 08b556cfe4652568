"""The file of a run's records, records.jsonl: its seal at the end of the run, what is wrong with it later, and its repair."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.locations import read_regular
from harness.store import chain
from harness.store.files import disk_errors, encode_lines, lines_in, parse_lines, write_atomic

NAME = "records.jsonl"
Rows = list[dict[str, Any]]


def seal(path: Path, run_id: str) -> dict[str, Any]:
    """What result.json keeps of the records, by which later changes are noticed (harness.store.chain)."""
    content = read(path)
    return chain.seal(content, parse_lines(content, path), run_id)


def fault(path: Path, run_id: str, result: Mapping[str, Any]) -> str:
    """What is wrong with the records of a run that ended: lost ones, and ones that do not fit their checksums; "" if nothing is.

    Runs of earlier versions have no checksums, and only their number of records is compared here.
    """
    if not isinstance(result.get("records"), int):
        return ""
    content = read(path)
    if chain.is_sealed(content, result):
        return ""
    if lost := _lost(content, result):
        return f"{lost:,} of its records are missing"
    if "check" not in result:
        return ""
    damage: list[str] = []
    rows = parse_lines(content, path, damage.append)
    return "; ".join(damage + chain.check(rows, run_id, result)[1])


def lost(path: Path, result: Mapping[str, Any]) -> int:
    """How many of the records that result.json counts the file no longer has; 0 for results of earlier versions, which count none."""
    return _lost(read(path), result)


def _lost(content: bytes, result: Mapping[str, Any]) -> int:
    expected = result.get("records")
    return max(0, expected - lines_in(content)) if isinstance(expected, int) else 0


def trusted(path: Path, run_id: str, result: Mapping[str, Any] | None, on_damage: Callable[[str], None]) -> Rows:
    """The records of a run that fit their checksums, and what else `chain.check` checks; each fault is reported to `on_damage`.

    Raises HarnessError if the file cannot be read; without a file there are no records.
    """
    content = read(path)
    rows = parse_lines(content, path, on_damage)
    if chain.is_sealed(content, result or {}):
        return rows
    good, faults = chain.check(rows, run_id, result)
    for fault in faults:
        on_damage(f"{path}: {fault}")
    return good


def restored(path: Path, run_id: str, result: Mapping[str, Any] | None, saved: Sequence[Mapping[str, Any]]) -> tuple[Rows, list[str]]:
    """The records that a run continues, and the faults for which they were restored.

    They are those of its file that can be trusted, and those of `saved`, the copy in the checkpoint. If the file lacks records of the copy,
    or holds some that do not fit their checksums or the copy, it is written again; one with faults is kept as records-<n>.damaged. What is
    missing then lies after the checkpoint and will be measured again.
    """
    faults: list[str] = []
    rows, problems = chain.check(parse_lines(read(path), path, faults.append), run_id, result)
    copies = {_key(row): row for row in chain.check(saved, run_id, None)[0]}
    differing = sum(_key(row) in copies and _content(copies[_key(row)]) != _content(row) for row in rows)
    faults += problems + [f"{differing:,} records differ from their copy in the checkpoint"] * (differing > 0)
    if not faults and copies.keys() <= {_key(row) for row in rows}:
        return rows, []
    rows = chain.linked([*copies.values(), *(row for row in rows if _key(row) not in copies)], run_id)
    if faults and path.exists():
        number = 1 + len(list(path.parent.glob("records-*.damaged")))
        with disk_errors(path):
            shutil.copyfile(path, path.with_name(f"records-{number}.damaged"))
    write_atomic(path, encode_lines(rows))
    return rows, faults


def read(path: Path) -> bytes:
    """The content of the file, empty where there is none. Raises HarnessError if it cannot be read."""
    with disk_errors(path, "read"):
        return read_regular(path) if path.exists() else b""


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a record is of: each combination is recorded once per run."""
    return row.get("step"), row.get("metric"), row.get("final")


def _content(row: Mapping[str, Any]) -> dict[str, Any]:
    """A record without its checksum."""
    return {key: value for key, value in row.items() if key != "check"}
