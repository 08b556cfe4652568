"""Fields of JSON objects that people, damaged disks or other programs may have changed: one of another kind than expected is dropped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.errors import printable

LARGEST, LARGEST_COUNT = 1e100, 10**15
"""No measured number and no count of a run is larger: squares of the first are finite, and the second are exact."""
LONGEST = 20_000
"""Characters of a text that are kept: a command line may be long."""
Kind = Callable[[object], bool]
"""Whether a value is of a kind."""


def is_number(value: object) -> bool:
    """A finite number of a size that arithmetic can handle."""
    if isinstance(value, float):
        return abs(value) <= LARGEST  # false for nan
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_COUNT


def is_count(value: object) -> bool:
    """A whole number, not negative."""
    return isinstance(value, int) and is_number(value) and value >= 0


def is_time(value: object) -> bool:
    """Seconds after 1970, in a year that calendars know."""
    return is_number(value) and 0 <= value < 1e11  # type: ignore[operator]  # it is a number


def is_text(value: object) -> bool:
    """A text; not the absence of one."""
    return isinstance(value, str)


def is_texts(value: object) -> bool:
    """Texts, or None, by name."""
    return isinstance(value, Mapping) and all(text is None or isinstance(text, str) for text in value.values())


ATTEMPT: Mapping[str, Kind] = {
    "time": is_time,
    **dict.fromkeys(("step", "processes", "micro_batch", "pid"), is_count),
    **dict.fromkeys(("host", "user", "command", "python", "system", "device", "job_id", "executor"), is_text),
    **dict.fromkeys(("commit", "dirty", "commit_unknown", "fingerprint"), is_text),
    **dict.fromkeys(("versions", "parts", "experiment"), is_texts),
}
"""One start of a run (harness.store.provenance)."""
PROGRESS: Mapping[str, Kind] = {
    **dict.fromkeys(("step", "total", "processes", "records", "generation"), is_count),
    **dict.fromkeys(("rate", "loss", "fid", "seconds", "idle"), is_number),
    "time": is_time,
    **dict.fromkeys(("phase", "device", "host", "check", "records_sha256"), is_text),
}
"""heartbeat.json, and result.json."""
SUBMISSION: Mapping[str, Kind] = {"token": is_text, "executor": is_text, "job_id": is_text, "generation": is_count}
"""submitted.json."""
OWNER: Mapping[str, Kind] = {
    **dict.fromkeys(("pid", "started"), is_count),
    **dict.fromkeys(("host", "boot", "namespace", "token"), is_text),
    "time": is_time,
}
"""A generation file of a lock (harness.store.lease)."""


def well_formed(values: Mapping[str, Any], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """The fields that are of the kind stated for them, or None, or that have no kind. Texts lose what a terminal would obey."""
    kept = {name: value for name, value in values.items() if value is None or name not in kinds or kinds[name](value)}
    return {name: printable(value, LONGEST) if isinstance(value, str) else value for name, value in kept.items()}
