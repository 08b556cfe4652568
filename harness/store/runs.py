"""Run folders: the layout of results on disk. The state of a run is what its folder says, never what a scheduler says. No torch.

results/runs/<slug>-<12 hex>/
    config.json         the full config, written once
    attempts.jsonl      one line per start: machine, commit, fingerprint of the code, versions, command, experiment, first step
    records.jsonl       one line per measurement (harness.store.records), with checksums (harness.store.chain)
    heartbeat.json      progress, for people
    lock/               the process that may write (harness.store.lease)
    submitted.json      the job that was handed to a scheduler
    result.json         the run is done; the seal of its records
    verified.json       the run was trained again and compared (harness.store.verified)
    error.json          the run failed
    log.txt             output of all starts
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from harness.config.identity import differences, identity_digest
from harness.errors import ConfigMismatch, DamagedFile, HarnessError, MissingFile, printable, unknown
from harness.locations import may_write, results_root
from harness.store import record_file
from harness.store.fields import ATTEMPT, LONGEST, PROGRESS, SUBMISSION, Kind, well_formed
from harness.store.files import append_lines, create_new, disk_errors, encode, read_json, read_lines, write_json
from harness.store.lease import EXPIRY, INTERVAL, Holder, Lease, filesystem_now, holder, remove_left_behind

OWNERS_FILES = ("checkpoints/.*.tmp", "samples/.*.tmp", ".result.json.*.tmp", ".error.json.*.tmp", ".heartbeat.json.*.tmp")
"""Temporary files that only the owner of a run folder writes."""


class State(StrEnum):
    """The state of a run."""

    NEW = "new"
    QUEUED = "queued"
    """Handed to a scheduler and not started since."""
    RUNNING = "running"
    STALLED = "stalled"
    """Owned by a process that is dead or has sent no heartbeat for `expiry` seconds."""
    STOPPED = "stopped"
    """Started and released before its end, by a deadline or Ctrl-C. The same command resumes it."""
    FAILED = "failed"
    DONE = "done"
    BLOCKED = "blocked"
    """Needs a run that is missing; known to a plan only."""


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of all complete checkpoints in a folder, ascending."""
    numbers = (path.stem.removeprefix("step-") for path in folder.glob("step-*.json"))
    return sorted(int(number) for number in numbers if number.isdecimal())


@dataclass(frozen=True)
class RunFolder:
    """One run on disk. Reading needs no lease, writing results does."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @classmethod
    def create(cls, root: Path, run_id: str, config: Mapping[str, Any]) -> RunFolder:
        """Creates root/runs/run_id with config.json, or opens it. Raises ConfigMismatch, with the differences, if a stored one disagrees.

        Keys that cannot change the result may differ and keep their stored value. Only keep_steps grows until the run is done, since
        several runs may need different steps of it. A damaged config.json is renamed to config.damaged.
        """
        folder = cls(root / "runs" / run_id)
        path = folder.path / "config.json"
        with disk_errors(path, "read"):
            is_new = not path.exists()
        if is_new:
            with disk_errors(folder.path, "create a folder"):
                folder.path.mkdir(parents=True, exist_ok=True)
            if create_new(path, encode(config)):
                return folder
        elif folder._lenient("config.json") is None:
            path.replace(path.with_suffix(".damaged"))
            return cls.create(root, run_id, config)
        folder.check_config(config)
        folder._keep(config.get("keep_steps") or ())
        return folder

    def _keep(self, steps: Iterable[int]) -> None:
        stored = self.config()
        kept = stored.get("keep_steps") or []
        if not {*steps} <= {*kept} and self.result() is None:
            write_json(self.path / "config.json", {**stored, "keep_steps": sorted({*kept, *steps})})

    def check_config(self, config: Mapping[str, Any]) -> None:
        """Raises ConfigMismatch, with the differences, if the stored config has another identity than `config`."""
        stored = self.config()
        if stored != config and identity_digest(stored) != identity_digest(config):
            changes = "; ".join(f"{key}: {old} -> {new}" for key, (old, new) in differences(stored, config).items())
            raise ConfigMismatch(
                "the stored config of this run disagrees",
                where=self.path / "config.json",
                found=f"{changes}  (stored -> wanted)",
                expected="the config that this folder was created for",
                nearest=f"move {self.path} away, or give --results another folder",
            )

    def config(self) -> dict[str, Any]:
        """The stored config. Raises HarnessError if it is missing or damaged."""
        return read_json(self.path / "config.json")

    def stored_steps(self) -> list[int]:
        """The steps of all complete checkpoints, ascending; harness.training.checkpoints reads them."""
        return checkpoint_steps(self.path / "checkpoints")

    def records(self, on_damage: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
        """All records as JSON objects, not validated. Other damage than an incomplete last line raises DamagedFile, or is reported to
        `on_damage` and left out."""
        return read_lines(self.path / record_file.NAME, on_damage)

    def append_records(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Adds records in one synced write, after it has cut off the incomplete last line of an earlier crash."""
        append_lines(self.path / record_file.NAME, list(records))

    def restore_records(self, saved: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
        """The records that a run continues, of its file and of the copy in its checkpoint, and why they had to be restored."""
        return record_file.restored(self.path / record_file.NAME, self.id, self.stored_result(), saved)

    def seal_of_records(self) -> dict[str, Any]:
        """What result.json keeps of the records, by which later changes are noticed."""
        return record_file.seal(self.path / record_file.NAME, self.id)

    def attempts(self) -> list[dict[str, Any]]:
        """All starts of the run; damaged lines, and fields of another kind than expected, are left out."""
        return [well_formed(row, ATTEMPT) for row in read_lines(self.path / "attempts.jsonl", on_damage=lambda _: None)]

    def add_attempt(self, attempt: Mapping[str, Any]) -> None:
        """Adds one start: what `harness.store.provenance` says, first step, number of processes."""
        append_lines(self.path / "attempts.jsonl", [attempt])

    def read_heartbeat(self) -> dict[str, Any] | None:
        """The last reported progress, None if it is missing, damaged or cannot be read; nothing depends on it."""
        with contextlib.suppress(HarnessError):
            return self._lenient("heartbeat.json", PROGRESS)
        return None

    def result(self) -> dict[str, Any] | None:
        """The result of a done run. One that is damaged, or whose records have a fault, counts as none: the run is then finished again from
        its last checkpoint, which restores them."""
        result = self.stored_result()
        return None if result is not None and self._fault(result) else result

    def stored_result(self) -> dict[str, Any] | None:
        """The content of result.json, also if records are lost or do not fit; None if it is missing or damaged."""
        return self._lenient("result.json", PROGRESS)

    def records_fault(self) -> str:
        """What is wrong with the records of a run that ended: lost ones, and ones that do not fit their checksums; "" if nothing is."""
        return self._fault(self.stored_result() or {})

    def _fault(self, result: Mapping[str, Any]) -> str:
        path = self.path / record_file.NAME
        if result and "records" not in result and self.stored_steps():  # a result of an earlier version counts none
            with disk_errors(path, "read"):
                if not (path.exists() and path.stat().st_size):
                    return "all of its records are missing"
        return record_file.fault(path, self.id, result)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Declares the run done and removes an earlier error."""
        write_json(self.path / "result.json", result)
        (self.path / "error.json").unlink(missing_ok=True)

    def error(self) -> dict[str, Any] | None:
        """kind, message, traceback, step, time of the last failure; None if the run has been started again since, or never failed."""
        try:
            return well_formed(read_json(self.path / "error.json"), {})
        except MissingFile:
            return None
        except HarnessError as fault:
            return {"kind": "unknown", "message": f"failed, and error.json is damaged ({fault.what})"}

    def write_error(self, kind: str, message: str, traceback: str = "", step: int | None = None) -> None:
        """Declares the run failed. kind: input, diverged, crash, ..."""
        texts = {"kind": kind, "message": printable(message, LONGEST), "traceback": printable(traceback, LONGEST)}
        write_json(self.path / "error.json", {**texts, "step": step, "time": time.time()})

    def submission(self) -> dict[str, Any] | None:
        """The job that was handed to a scheduler: token, executor, job_id (None while it is being submitted), time.

        A file that is damaged or cannot be read counts as none: at worst, two jobs wait for one run and the second finds it done or owned.
        """
        with contextlib.suppress(HarnessError):
            return self._lenient("submitted.json", SUBMISSION)
        return None

    def acquire(self, expiry: float = EXPIRY, interval: float = INTERVAL) -> Lease:
        """Owns the folder, or raises Busy. The error of an earlier start moves to error-<n>.json.

        heartbeat.json keeps the step and FID of the earlier start until the owner reports its own. Temporary files of a killed owner are
        removed.
        """
        before = self.read_heartbeat() or {}
        lease = Lease.acquire(self.path, expiry, interval)
        lease.beat(force=True, **{key: before[key] for key in ("step", "total", "fid") if key in before})
        with contextlib.suppress(FileNotFoundError):
            (self.path / "error.json").rename(self.path / f"error-{lease.generation}.json")
        for path in [path for pattern in OWNERS_FILES for path in self.path.glob(pattern)]:
            with contextlib.suppress(OSError):
                path.unlink()
        remove_left_behind(self.path)
        return lease

    def put_aside(self) -> Path | None:
        """Moves the results of earlier starts to old-<n>/, so that the run starts again from step 0.

        Returns that folder, or None if there were no results. Raises Busy if a process works on the run.
        """
        with Lease.acquire(self.path):
            paths = [path for path in self.path.iterdir() if path.name not in ("config.json", "lock") and not path.name.startswith("old-")]
            if {path.name for path in paths} <= {"heartbeat.json"}:
                return None
            number = 1 + max((int(path.name[4:]) for path in self.path.glob("old-*") if path.name[4:].isdigit()), default=0)
            target = self.path / f"old-{number}"
            with disk_errors(target):
                target.mkdir()
                # The result goes first: after a crash in between, what remains is an unfinished run.
                for path in sorted(paths, key=lambda path: path.name != "result.json"):
                    path.rename(target / path.name)
        return target

    def delete(self) -> None:
        """Removes the folder and all results in it. Raises Busy if a process works on the run."""
        with self.acquire():
            trash = self.path.with_name(f".{self.id}.{os.getpid()}.trash")
            with disk_errors(self.path, "remove"):
                self.path.rename(trash)
        with disk_errors(trash, "remove"):
            shutil.rmtree(trash)

    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    def owner(self, now: float | None = None) -> Holder | None:
        """The owner of the folder and the age of its last heartbeat, None if no process owns the folder."""
        owner = holder(self.path, now)
        return owner if owner and not owner.released else None

    def state(self, now: float | None = None, expiry: float = EXPIRY) -> State:
        """The state according to the files. `now`: time by the file system's clock, if it is known."""
        try:
            with disk_errors(self.path, "read"):
                names = set(os.listdir(self.path))  # noqa: PTH208 - one call instead of six, for 1,000 folders
        except MissingFile:
            return State.NEW
        if "result.json" in names and self.result() is not None:
            return State.DONE
        owner = holder(self.path, now) if "lock" in names else None
        if owner and not owner.free(expiry):
            return State.RUNNING
        if "error.json" in names:
            return State.FAILED
        if "submitted.json" in names and (self.submission() or {}).get("generation") == (owner.generation if owner else 0):
            return State.QUEUED  # no process has owned the folder since
        if owner:
            return State.STOPPED if owner.released else State.STALLED
        return State.NEW

    def _lenient(self, name: str, kinds: Mapping[str, Kind] = {}) -> dict[str, Any] | None:
        """The JSON object in a file, without fields of another kind; None if it is missing or damaged. Raises HarnessError if it cannot be
        read."""
        try:
            return well_formed(read_json(self.path / name), kinds)
        except (MissingFile, DamagedFile):
            return None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):  # a loop of links
        return entry.is_dir()
    return False


def match_run(prefix: str, names: Sequence[str], where: object) -> str:
    """The run id that equals `prefix`, else the only one whose name, or the hash at its end, begins with it.

    Raises UnknownName if there is none, HarnessError if there are several. where: what contains the runs, for the message.
    """
    if prefix in names:
        return prefix
    matches = [name for name in names if name.startswith(prefix) or name.rsplit("-", 1)[-1].startswith(prefix)]
    if not matches:
        raise unknown("run", prefix, names[:20], where=where)
    if len(matches) > 1:
        expected = "one of " + ", ".join(matches[:9])
        raise HarnessError("the name of the run is ambiguous", where=where, found=prefix, expected=expected, nearest=matches[0])
    return matches[0]


class Store:
    """All runs below one results folder."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = Path(root) if root is not None else results_root()

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def folder(self, run_id: str) -> RunFolder:
        """The folder of a run, which need not exist."""
        return RunFolder(self.runs / run_id)

    def folders(self) -> list[RunFolder]:
        """All run folders, by name."""
        try:
            with disk_errors(self.runs, "read"), os.scandir(self.runs) as entries:
                names = sorted(entry.name for entry in entries if _is_folder(entry) and not entry.name.startswith("."))
        except MissingFile:
            return []
        return [self.folder(name) for name in names]

    def find(self, prefix: str) -> RunFolder:
        """The run whose name, or the hash at its end, begins with `prefix`. Raises HarnessError if there is none or more than one."""
        names = [folder.id for folder in self.folders()]
        if not names:
            raise HarnessError("there are no runs yet", where=self.runs, found=prefix, expected="the name of a run")
        return self.folder(match_run(prefix, names, self.runs))

    def named(self, name: str | Path) -> RunFolder:
        """The run folder at that path, else the run of that name, as `find`."""
        path = Path(name)
        return RunFolder(path.absolute()) if (path / "config.json").is_file() else self.find(str(name))

    def check_writable(self) -> None:
        """Raises HarnessError if runs cannot be created here, so that not every run has to fail for it."""
        for folder in (self.root, self.runs):
            if not may_write(folder):
                advice = "--results DIR, a folder of your own"
                raise HarnessError("no permission to write results", where=folder, expected="a folder that you may write", nearest=advice)

    def now(self) -> float:
        """The time by the clock of the file system."""
        return filesystem_now(self.runs if self.runs.is_dir() else self.root)

    def mark_submitted(self, run_id: str, token: str, executor: str, job_id: str | None = None) -> None:
        """Records a submission in two phases, so that a crash between submitting and recording never starts a run twice.

        Before submitting, without job_id: claims the run for `token`. After submitting, with job_id: records the job of that token, so
        that an interrupted launcher can ask the scheduler about it. When a scheduler requeues the job, without job_id and with the same
        token: the run is queued again. Raises HarnessError if another submission holds the run.
        """
        folder = self.folder(run_id)
        path = folder.path / "submitted.json"
        owner = holder(folder.path)
        entry = {"token": token, "executor": executor, "job_id": None, "generation": owner.generation if owner else 0, "time": time.time()}
        if job_id is None and create_new(path, encode(entry)):
            return
        stored = folder.submission()
        if stored is None and job_id is None:  # damaged
            return write_json(path, entry)
        stored = stored or {}
        if stored.get("token") != token:
            job = f"job {stored.get('job_id') or '(not recorded)'} of {stored.get('executor')}"
            raise HarnessError("this run is already submitted", where=folder.path, found=job, expected="one submission at a time")
        write_json(path, {**stored, "job_id": job_id} if job_id else {**entry, "job_id": stored.get("job_id")})

    def clear_submission(self, run_id: str, token: str) -> None:
        """Removes a submission whose job is known to be gone; that of another token stays."""
        folder = self.folder(run_id)
        if (folder.submission() or {}).get("token") == token:
            (folder.path / "submitted.json").unlink(missing_ok=True)
