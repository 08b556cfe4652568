"""A summary of every run folder, fast: 1,000 folders in well under a second. No torch.

What cannot change (the parameters of a run, the result of a finished one) is cached in results/cache/index.json. The file only copies
what the folders say, so a damaged or missing one is written again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.config.baselines import job_from_dict
from harness.errors import HarnessError
from harness.store.files import write_atomic
from harness.store.runs import RunFolder, State, Store
from harness.sweep.parameters import parameters

FORMAT = 2
_PROGRESS = ("step", "total", "rate", "fid", "phase", "device", "processes")


@dataclass(frozen=True)
class Summary:
    """One run folder at one moment."""

    id: str
    state: State
    parameters: dict[str, Any] = field(default_factory=dict)
    special: tuple[str, ...] = ()
    """Keys of parameters that are not at their defaults."""
    step: int = 0
    total: int | None = None
    rate: float | None = None
    """Steps per second."""
    fid: float | None = None
    phase: str | None = None
    restarts: int = 0
    job: str | None = None
    age: float | None = None
    """Seconds since the last heartbeat of the present owner."""
    device: str | None = None
    processes: int = 1
    reason: str = ""
    """Why it failed, or what is damaged."""

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end of the run at the present rate; None when unknown."""
        if self.state is State.RUNNING and self.rate and self.total:
            return (self.total - self.step) / self.rate
        return None


def summaries(store: Store, folders: Iterable[RunFolder] | None = None) -> list[Summary]:
    """A summary of every given folder, by default of all. A damaged folder is reported in its `reason` and stops nothing."""
    path = store.root / "cache" / "index.json"
    kept = _load(path)
    before = json.dumps(kept)
    now = store.now()
    result = [_summary(folder, kept, now) for folder in (store.folders() if folders is None else folders)]
    if json.dumps(kept) != before:
        with contextlib.suppress(HarnessError, OSError):  # a reader without write access still gets the table
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, json.dumps({"format": FORMAT, "runs": kept}).encode(), durable=False)
    return result


def _load(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
        return dict(value["runs"]) if value["format"] == FORMAT else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _summary(folder: RunFolder, kept: dict[str, Any], now: float) -> Summary:
    """The summary of one folder; what cannot change is taken from `kept`, or added to it."""
    entry, damage = kept.get(folder.id), ""
    try:
        if entry is None:
            values, special = parameters(job_from_dict(folder.config(), where=folder.path / "config.json"))
            entry = kept[folder.id] = {"parameters": values, "special": special, "total": values.get("train.steps", 1), "done": None}
    except HarnessError as error:
        entry, damage = {"parameters": {}, "special": [], "total": None, "done": None}, _short(error)
    begun = Summary(folder.id, State.NEW, entry["parameters"], tuple(entry["special"]), total=entry["total"])
    try:
        summary = _finished(folder, entry, begun) or _unfinished(folder, begun, now)
    except HarnessError as error:
        return replace(begun, state=State.FAILED, reason=_short(error))
    return replace(summary, reason=damage) if damage else summary


def _short(error: HarnessError) -> str:
    return f"{error.what}: {error.details.get('where', '')}"


def _finished(folder: RunFolder, entry: dict[str, Any], begun: Summary) -> Summary | None:
    """The summary of a finished run, None for others. Cached in `entry`."""
    try:
        stamp = (folder.path / "result.json").stat().st_mtime_ns
    except FileNotFoundError:
        return None
    if not entry["done"] or entry["done"]["stamp"] != stamp:
        result = folder.result()
        if result is None:
            return None
        facts = {**_progress(folder.read_heartbeat()), **_progress(result), "phase": None, "restarts": _restarts(folder)}
        total = begun.total or facts.get("total", 0)
        entry["done"] = {"stamp": stamp, "facts": {**facts, "step": total, "total": total}}
    return replace(begun, state=State.DONE, **entry["done"]["facts"])


def _unfinished(folder: RunFolder, begun: Summary, now: float) -> Summary:
    state = folder.state(now)
    if state is State.NEW:
        return begun
    error = folder.error() if state is State.FAILED else None
    return replace(
        begun,
        state=state,
        restarts=_restarts(folder),
        age=folder.heartbeat_age(now),
        job=(folder.submission() or {}).get("job_id"),
        reason=str((error or {}).get("message", "")),
        **_progress(folder.read_heartbeat()),
    )


def _progress(source: dict[str, Any] | None) -> dict[str, Any]:
    return {key: source[key] for key in _PROGRESS if source and isinstance(source.get(key), (int, float, str))}


def _restarts(folder: RunFolder) -> int:
    return max(0, len(folder.attempts()) - 1)
