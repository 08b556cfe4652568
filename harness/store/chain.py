"""The checksums of records: each record carries one over itself and one that continues that of the record before it.

`check` of a record is 24 hex digits: 12 of the SHA-256 of its canonical JSON without `check`, then 12 of the SHA-256 of the previous
record's `check` and those first 12. The chain begins with the run id and continues when a run resumes. result.json seals it with the last
`check`, the number of records and the SHA-256 of the file; each checkpoint holds a copy of the records up to its step.

The first half shows that a record was changed, the second that records before it were added, removed or moved. So one damaged record is
left out alone, and all others can still be trusted. The checksums find accidents and edits by hand; they are no signature.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.errors import printable

Row = Mapping[str, Any]
HALF = 12
_NAMED, LONGEST = 4, 100
"""How many records a message names one by one, and how many characters of a text in them."""
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_CHANGED = "changed after recording"
_FOREIGN = "of another run"
_SECOND = "repeating a step and metric"
_BEYOND = "beyond the last step"
_UNCHECKED = "without a checksum among others that have one"
_ADDED = "added after the end of the run"
_UNSEALED = "of another chain than result.json sealed"
_PROTOCOL = "measured by another protocol than the others of their metric"
_EARLY = "without checksums, of which one was changed, added or removed"


def check_of(row: Row, previous: str) -> str:
    """The `check` of a record whose predecessor has the check `previous`; of the first record, `previous` is the run id."""
    own = _sha(_canonical({key: value for key, value in row.items() if key != "check"}))
    return own + _sha(previous + own)


def linked(rows: Iterable[Row], previous: str) -> list[dict[str, Any]]:
    """The records with the checks of a chain that continues `previous`."""
    chained = []
    for row in rows:
        previous = check_of(row, previous)
        chained.append({**row, "check": previous})
    return chained


def end(rows: Iterable[Row], run_id: str) -> str:
    """The check that the next record continues. Records without one, of earlier versions, count as if they had it."""
    previous = run_id
    for row in rows:
        previous = _stored(row) or check_of(row, previous)
    return previous


def seal(content: bytes, rows: Sequence[Row], run_id: str) -> dict[str, Any]:
    """What result.json says about the records. content: the file that holds `rows`."""
    return {"records": len(rows), "check": end(rows, run_id), "records_sha256": hashlib.sha256(content).hexdigest()}


def is_sealed(content: bytes, result: Row) -> bool:
    """Whether a file of records is, byte for byte, the one that result.json seals; then nothing else has to be checked."""
    return "records_sha256" in result and hashlib.sha256(content).hexdigest() == result["records_sha256"]


def check(rows: Sequence[Row], run_id: str, result: Row | None) -> tuple[list[dict[str, Any]], list[str]]:
    """The records that can be trusted, in their order, and what is wrong with the others, one text for each kind of fault.

    rows: all records of a run, in the order of its file, as JSON objects. result: the content of result.json, None or {} before the end.
    A faulty record is left out; records that follow a gap are kept. Runs of earlier versions have no checksums: of these, the run id, the
    last step, repetitions and protocols are checked. Objects that are no records are kept, for `harness.store.records.valid` to judge.
    """
    result = result or {}
    faults: dict[str, list[Row]] = {}
    good, gaps = _by_chain(rows, run_id, result, faults)
    good = _by_content(good, result, faults)
    texts = [f"{_count(rows)} {fault}, left out: {_names(rows)}" for fault, rows in faults.items()]
    texts += [f"records are missing before {_name(row)}" for row in gaps[:_NAMED]]
    expected = result.get("records")
    if isinstance(expected, int) and len(rows) < expected:
        texts.append(f"{expected - len(rows):,} of {expected:,} records are missing")
    return [dict(row) for row in good], texts


def _by_chain(rows: Sequence[Row], run_id: str, result: Row, faults: dict[str, list[Row]]) -> tuple[list[Row], list[Row]]:
    """The records whose run and checksum fit, and those of them before which others are missing."""
    good: list[Row] = []
    gaps: list[Row] = []
    early: list[Row] = []
    """Good records before the first one with a checksum."""
    if "check" not in result and not any(map(_stored, rows)):  # of an earlier version
        for row in rows:
            (good if row.get("run", run_id) == run_id else faults.setdefault(_foreign(row), [])).append(row)
        return good, []
    previous, chained, sealed, keys = run_id, False, False, set()
    for row in rows:
        stored = _stored(row)
        computed = check_of(row, previous)
        if row.get("run", run_id) != run_id:
            faults.setdefault(_foreign(row), []).append(row)
        elif sealed:
            faults.setdefault(_ADDED, []).append(row)
        elif stored is None and chained:
            faults.setdefault(_UNCHECKED, []).append(row)
        elif stored is None:
            good.append(row)
            early.append(row)
            previous = computed
        else:
            unchanged = stored[:HALF] == computed[:HALF]
            continues = stored[HALF:] == _sha(previous + stored[:HALF])
            if unchanged and not continues and _key(row) in keys:
                faults.setdefault(_SECOND, []).append(row)
                continue
            if not continues and early and not chained:
                faults[_EARLY], good = early, []
            elif not continues and unchanged:
                gaps.append(row)
            if unchanged:
                good.append(row)
            else:
                faults.setdefault(_CHANGED, []).append(row)
            if unchanged or continues:
                previous, chained = stored, True
        if good and good[-1] is row:
            keys.add(_key(row))
        sealed = sealed or previous == result.get("check")
    expected = result.get("records")
    if "check" in result and not sealed and good and (not isinstance(expected, int) or len(good) >= expected):
        faults[_UNSEALED] = good  # complete, each fits, and yet another chain: as of the same run on another machine
        return [], []
    return good, gaps


def _by_content(rows: Sequence[Row], result: Row, faults: dict[str, list[Row]]) -> list[Row]:
    """The records that are not beyond the last step, no repetition, and of the most frequent protocol of their metric."""
    last = result.get("step")
    good: list[Row] = []
    keys = set()
    for row in rows:
        step = row.get("step")
        if isinstance(last, int) and isinstance(step, int) and step > last:
            faults.setdefault(_BEYOND, []).append(row)
        elif "metric" in row and _key(row) in keys:
            faults.setdefault(_SECOND, []).append(row)
        else:
            keys.add(_key(row))
            good.append(row)
    protocols: dict[tuple[Any, ...], Counter[Any]] = {}
    for row in reversed(good):  # of two protocols that are as frequent, the later one counts
        protocols.setdefault(_key(row)[1:], Counter())[str(row.get("protocol"))] += 1
    if all(len(counts) == 1 for counts in protocols.values()):
        return good
    usual = {group: counts.most_common(1)[0][0] for group, counts in protocols.items()}
    faults[_PROTOCOL] = [row for row in good if str(row.get("protocol")) != usual[_key(row)[1:]]]
    return [row for row in good if str(row.get("protocol")) == usual[_key(row)[1:]]]


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:HALF]


def _stored(row: Row) -> str | None:
    """The check of a record; None if it has none."""
    value = row.get("check")
    return value if isinstance(value, str) and len(value) == 2 * HALF else None


def _key(row: Row) -> tuple[str, str, str]:
    """Step, metric and final as text, since a damaged record may hold anything there."""
    return str(row.get("step")), str(row.get("metric")), str(row.get("final"))


def _foreign(row: Row) -> str:
    return f"{_FOREIGN}, {printable(row['run'], LONGEST)}"


def _name(row: Row) -> str:
    final = " (final)" if row.get("final") is True else ""
    return f"step {printable(row.get('step'), LONGEST)} {printable(row.get('metric'), LONGEST)}{final}"


def _names(rows: Sequence[Row]) -> str:
    return ", ".join(map(_name, rows[:_NAMED])) + (f" and {len(rows) - _NAMED:,} more" if len(rows) > _NAMED else "")


def _count(rows: Sequence[Row]) -> str:
    return f"{len(rows):,} record{'s' * (len(rows) != 1)}"
