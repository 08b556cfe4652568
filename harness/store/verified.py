"""What `harness verify` found: which runs were trained again with which code, and whether their records were equal bit for bit.

verified.json lies in a run folder, or in published/<scale>/ beside the published records:

    verifications   one per code: time, fingerprint and parts of the code, commit, versions, device, and of each run the number of records
                    that were compared, how many were not equal, and the first of these
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.store.files import read_json, write_json

NAME = "verified.json"
FORMAT = 1
IGNORED = ("run", "seconds", "check")
"""Fields of a record that may differ between two runs of one config: the id in an earlier version of configs, and times."""
LATER_METRICS = ("loss",)
"""Metrics that earlier versions did not record; runs that have none of their records are compared without them."""
_NAMED = 5


@dataclass(frozen=True)
class Comparison:
    """The records of a run and those of the same run trained again."""

    records: int
    """How many there are to compare."""
    different: tuple[str, ...] = ()
    """Step and metric of each record that is absent on one side or has other values."""

    @property
    def equal(self) -> bool:
        """Whether there were records, all of them equal bit for bit."""
        return self.records > 0 and not self.different


def compare(records: Sequence[Mapping[str, Any]], again: Sequence[Mapping[str, Any]], complete: bool = True) -> Comparison:
    """Compares the records of a run with those of the same run trained again, but for IGNORED.

    complete: whether `records` are all of the run; published ones lack some.
    """
    before, after = _by_key(records), _by_key(again)
    unknown = {metric for metric in LATER_METRICS if metric not in {key[1] for key in before}}
    keys = [*before, *(key for key in after if complete and key not in before and key[1] not in unknown)]
    return Comparison(len(keys), tuple(f"step {key[0]} {key[1]}" for key in keys if before.get(key) != after.get(key)))


def _by_key(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {
        (row.get("step"), row.get("metric"), row.get("final")): {key: value for key, value in row.items() if key not in IGNORED}
        for row in rows
    }


def write(folder: Path, code: Mapping[str, Any], runs: Mapping[str, Comparison]) -> Path:
    """Adds what was verified with one code to verified.json of a folder; an earlier verification of these runs with this code is replaced.

    code: time, fingerprint, parts, commit, versions and device, as in an attempt.
    """
    facts = {
        name: {
            "records": comparison.records,
            "equal": comparison.equal,
            "different": len(comparison.different),
            "first": list(comparison.different[:_NAMED]),
        }
        for name, comparison in runs.items()
    }
    return _add(folder, {**code, "runs": facts})


def copy(folder: Path, to: Path) -> None:
    """Adds what was verified of the runs of one folder to another folder, as when a run is published."""
    for entry in _verifications(folder):
        _add(to, entry)


def _add(folder: Path, entry: Mapping[str, Any]) -> Path:
    path, before = folder / NAME, _verifications(folder)
    same = [other for other in before if other.get("fingerprint") == entry["fingerprint"]]
    runs = {name: facts for other in [*same, entry] for name, facts in other["runs"].items()}
    others = [other for other in before if other not in same]
    write_json(path, {"format": FORMAT, "verifications": [*others, {**entry, "runs": dict(sorted(runs.items()))}]})
    return path


def read(folder: Path, fingerprint: str) -> dict[str, bool]:
    """Whether each run of a folder's verified.json was equal when it was trained again with the code of this fingerprint."""
    return {
        name: facts.get("equal") is True
        for entry in _verifications(folder)
        if entry.get("fingerprint") == fingerprint
        for name, facts in entry["runs"].items()
    }


def _verifications(folder: Path) -> list[dict[str, Any]]:
    """The entries of verified.json; [] if it is missing or damaged, since a verification can be repeated."""
    try:
        entries = read_json(folder / NAME)["verifications"]
        return [entry for entry in entries if isinstance(entry["runs"], dict) and "fingerprint" in entry]
    except (HarnessError, KeyError, TypeError):
        return []
