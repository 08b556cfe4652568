"""What the run folders say, quickly: 1,000 folders in well under a second. No torch.

The parts that cannot change (parameters of a run, the outcome of a done one) are kept in results/cache/index.json; the file is a
copy of what the folders say, so a damaged or missing one is made anew.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.store.files import write_atomic
from harness.store.lease import EXPIRY
from harness.store.runs import RunFolder, State, Store

FORMAT = 1
_PROGRESS = ("step", "total", "rate", "loss", "fid", "phase", "device", "processes")


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
    """Steps a second."""
    loss: float | None = None
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
        """Until the end of the run at the present rate; None when that is not known."""
        if self.state is State.RUNNING and self.rate and self.total:
            return (self.total - self.step) / self.rate
        return None


def summaries(store: Store, folders: Iterable[RunFolder] | None = None, expiry: float = EXPIRY) -> list[Summary]:
    """A summary of every given folder, of all by default. A damaged folder is told in its `reason` and stops nothing."""
    path = store.root / "cache" / "index.json"
    kept = _load(path)
    before = json.dumps(kept)
    now = store.now()
    found = [_summary(folder, kept, now, expiry) for folder in (store.folders() if folders is None else folders)]
    if json.dumps(kept) != before:
        with contextlib.suppress(HarnessError, OSError):  # a cache: whoever may only read still gets the table
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, json.dumps({"format": FORMAT, "runs": kept}).encode(), durable=False)
    return found


def _load(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
        return dict(value["runs"]) if value["format"] == FORMAT else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _summary(folder: RunFolder, kept: dict[str, Any], now: float, expiry: float) -> Summary:
    entry, damage = kept.get(folder.id), ""
    try:
        if entry is None:
            entry = kept[folder.id] = _immutable(folder)
    except HarnessError as error:
        entry, damage = {"parameters": {}, "special": [], "total": None, "done": None}, _short(error)
    try:
        found = _outcome(folder, entry) or _living(folder, entry, now, expiry)
    except HarnessError as error:
        return Summary(folder.id, State.FAILED, entry["parameters"], tuple(entry["special"]), reason=_short(error))
    return replace(found, reason=damage) if damage else found


def _short(error: HarnessError) -> str:
    return f"{error.what}: {error.details.get('where', '')}"


def _immutable(folder: RunFolder) -> dict[str, Any]:
    from harness.config.overrides import from_dict
    from harness.sweep.parameters import parameters

    run = from_dict(folder.config(), where=folder.path / "config.json")
    values, special = parameters(run)
    return {"parameters": values, "special": special, "total": run.train.steps, "done": None}


def _outcome(folder: RunFolder, entry: dict[str, Any]) -> Summary | None:
    """The summary of a done run, None for others."""
    try:
        stamp = (folder.path / "result.json").stat().st_mtime_ns
    except FileNotFoundError:
        return None
    if not entry["done"] or entry["done"]["stamp"] != stamp:
        result = folder.result()
        if result is None:
            return None
        entry["done"] = {"stamp": stamp, "restarts": _restarts(folder), **_progress(folder.read_heartbeat()), **_progress(result)}
    facts = {key: value for key, value in entry["done"].items() if key not in ("stamp", "phase")}
    total = entry["total"] or facts.get("total") or 0
    return Summary(folder.id, State.DONE, entry["parameters"], tuple(entry["special"]), **{**facts, "step": total, "total": total})


def _living(folder: RunFolder, entry: dict[str, Any], now: float, expiry: float) -> Summary:
    state = folder.state(now, expiry)
    if state is State.NEW:
        return Summary(folder.id, state, entry["parameters"], tuple(entry["special"]), total=entry["total"])
    facts = {"total": entry["total"], **_progress(folder.read_heartbeat()), "restarts": _restarts(folder)}
    return Summary(
        folder.id,
        state,
        entry["parameters"],
        tuple(entry["special"]),
        **facts,
        age=folder.heartbeat_age(now),
        job=(folder.submission() or {}).get("job_id"),
        reason=str((folder.error() or {}).get("message", "")) if state is State.FAILED else "",
    )


def _progress(source: dict[str, Any] | None) -> dict[str, Any]:
    return {key: source[key] for key in _PROGRESS if source and isinstance(source.get(key), (int, float, str))}


def _restarts(folder: RunFolder) -> int:
    return max(0, len(folder.attempts()) - 1)
