"""What a run folder says at one moment, and the parameters of runs as tables show them. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.config.baselines import BaselineJob, Job, stored_job
from harness.config.parts import coupling_label
from harness.config.run import Run
from harness.errors import FOREIGN, ConfigMismatch, HarnessError
from harness.store import fingerprint, verified
from harness.store.made_by import OF_BASELINES, TODAYS, MadeBy, made_by
from harness.store.runs import RunFolder, State

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
    made_by: MadeBy = TODAYS
    """By which code a done run was made."""

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end of the run at the present rate; None when unknown."""
        if self.state is State.RUNNING and self.rate and self.total:
            return (self.total - self.step) / self.rate
        return None


def summary(folder: RunFolder, now: float, job: Job | None = None) -> Summary:
    """The summary of a folder, which need not exist. A damaged file is reported in `reason`.

    now: the time by the clock of the file system. job: what the folder is for; None to read it from its config.json.
    """
    new = Summary(folder.id, State.NEW)
    try:
        stored = stored_job(folder.config(), folder.id, where=folder.path / "config.json")
        job = job or stored
    except HarnessError as error:
        if job is None or isinstance(error, ConfigMismatch):  # any other damage of a known config is repaired at the next start
            new = replace(new, reason=_short(error))
    if job is not None:
        values, special = parameters(job)
        new = replace(new, parameters=values, special=tuple(special), total=values.get("train.steps", 1))
    try:
        state = folder.state(now)
        if state is State.NEW:
            return new
        attempts = folder.attempts()
        facts: dict[str, Any] = {**_progress(folder.read_heartbeat()), "restarts": max(0, len(attempts) - 1)}
        if state is State.DONE:
            facts |= _progress(folder.stored_result())
            facts["made_by"] = _made_by(folder, attempts, job)
            total = new.total or facts.get("total", 0)
            return replace(new, state=state, **{**facts, "phase": None, "step": total, "total": total})
        failure = folder.error() if state is State.FAILED else None
        job_id = (folder.submission() or {}).get("job_id")
        reason = new.reason or str((failure or {}).get("message", "")) or folder.records_fault()
        owner = folder.owner(now)
        if owner and owner.ahead and not reason:
            reason = owner.heartbeat
        return replace(new, state=state, age=owner.age if owner else None, job=job_id, reason=reason, **facts)
    except HarnessError as error:
        return replace(new, state=State.FAILED, reason=_short(error))
    except FOREIGN as error:
        return replace(new, state=State.FAILED, reason=f"damaged folder, {type(error).__name__}: {error}")


def _made_by(folder: RunFolder, attempts: Sequence[Mapping[str, Any]], job: Job | None) -> MadeBy:
    code = made_by(attempts, OF_BASELINES if isinstance(job, BaselineJob) else tuple(fingerprint.PARTS))
    return replace(code, equal=verified.read(folder.path, fingerprint.current()).get(folder.id)) if code.note else code


def state_of(folder: RunFolder, now: float | None = None) -> State:
    """The state of a run, for what concerns many of them: failed if its folder cannot be read. now: as for `RunFolder.state`."""
    try:
        return folder.state(now)
    except HarnessError:
        return State.FAILED


def unreadable(folder: RunFolder) -> str:
    """Why the folder of a run cannot be read; "" if it can."""
    try:
        folder.state()
    except HarnessError as error:
        return _short(error)
    return ""


def explain(folder: RunFolder, code: int | None = None) -> str:
    """Why a run is not done: what cannot be read of it, else its error, else its exit code."""
    if fault := unreadable(folder):
        return fault
    if error := folder.error():
        return f"{error.get('kind', 'failed')}: {str(error.get('message', '')).partition(chr(10))[0]}"
    return "not done" if code is None else f"ended with exit code {code} and without an error.json"


def parameters(job: Job) -> tuple[dict[str, Any], list[str]]:
    """All parameters by dotted key, with a run's coupling as one of them, and the keys of a run that are not at their defaults."""
    values = _flat(job.model_dump(mode="json"))
    if not isinstance(job, Run):
        return values, []
    special = _flat(job.model_dump(mode="json", exclude_defaults=True))
    values = {key: value for key, value in values.items() if not key.startswith(("coupling.", "data.custom"))}
    if job.data.custom:
        values["data.custom"], special["data.custom"] = f"({job.data.custom.label})", None
    return {**values, "coupling": coupling_label(job.coupling)}, [key for key in special if key in values]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _progress(source: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: source[key] for key in _PROGRESS if source and source.get(key) is not None}


def _short(error: HarnessError) -> str:
    return f"{error.what}: {error.details.get('where', '')}"
