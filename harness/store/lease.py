"""One writer per folder: a lock that survives crashes, expires by heartbeat and is safe on a shared file system.

The lock is a row of generation files lock/000001, 000002, ...; who created the highest one owns the folder. A newcomer may create the
next one only if the highest is released, its process is dead on this very machine, or its heartbeat is too old. Creation is exclusive,
so exactly one newcomer wins; an owner that slept through its own expiry sees a higher generation and knows that it has lost.
Ages compare times of one clock only, the file system's, so the clocks of the machines may differ.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.store.exit_codes import ExitCode
from harness.store.files import create_new, disk_errors, encode, write_json

EXPIRY = 120.0
"""Seconds without a heartbeat after which a folder may be taken over."""
INTERVAL = 5.0
"""Seconds between heartbeats."""
RELEASED = ".released"


class Busy(HarnessError):
    """Another process works on the folder."""

    exit_code = ExitCode.BUSY


class LeaseLost(HarnessError):
    """Another process has taken the folder over, so nothing more may be written to it."""

    exit_code = ExitCode.BUSY


@dataclass(frozen=True)
class Holder:
    """Who owns a folder, as written in the highest generation file."""

    generation: int
    released: bool
    age: float
    """Seconds since the last heartbeat, by the clock of the file system."""
    since: float
    """Local time of the owner at the start; for people only."""
    host: str
    pid: int
    token: str
    process: Mapping[str, Any]

    def dead(self) -> bool:
        """True if the owner's process is known to be gone, which only its own machine can know."""
        return is_dead(self.process)

    def free(self, expiry: float = EXPIRY) -> bool:
        """True if a newcomer may take the folder."""
        return self.released or self.age > expiry or self.dead()

    def describe(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host} since {since}, last heartbeat {self.age:.0f} s ago"


def holder(folder: Path, now: float | None = None) -> Holder | None:
    """The owner of the highest generation of a run folder, None if it never had one. `now`: time of the file system's clock."""
    lock = Path(folder) / "lock"
    generations, released = _listing(lock)
    if not generations:
        return None
    top = generations[-1]
    try:
        with _file(lock, top).open("rb") as file:  # opening asks a network file system for the true time of the last beat
            beat = os.fstat(file.fileno()).st_mtime
            process = _content(file.read())
    except FileNotFoundError:
        return holder(folder, now)  # pruned meanwhile: there are higher ones
    age = 0.0 if top in released else max(0.0, (filesystem_now(lock) if now is None else now) - beat)
    return Holder(
        top,
        top in released,
        age,
        float(process.get("time", beat)),
        str(process.get("host", "unknown")),
        int(process.get("pid", 0)),
        str(process.get("token", "")),
        process,
    )


class Lease:
    """Ownership of a run folder, with a daemon thread that beats every `interval` seconds. Made by `Lease.acquire`; a context manager.

    beat() keeps what the thread writes to heartbeat.json; check() raises LeaseLost and belongs before every write of the owner.
    """

    def __init__(self, folder: Path, generation: int, process: Mapping[str, Any], interval: float) -> None:
        self.folder, self.generation, self.interval = folder, generation, interval
        self.token = str(process["token"])
        self._lock = folder / "lock"
        self._process = process
        self._progress: dict[str, Any] = {}
        self._told = time.monotonic()
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._lost = False
        self._write()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(cls, folder: Path, expiry: float = EXPIRY, interval: float = INTERVAL) -> Lease:
        """Owns `folder` or raises Busy, which says who does, since when, and how old the last heartbeat is."""
        folder = Path(folder)
        lock = folder / "lock"
        with disk_errors(lock):
            lock.mkdir(parents=True, exist_ok=True)
        process = this_process()
        while True:
            current = holder(folder)
            if current and not current.free(expiry):
                raise Busy("another process works on this run", where=folder, found=current.describe(), expected="one writer per folder")
            generation = current.generation + 1 if current else 1
            if not create_new(_file(lock, generation), encode(process)):
                continue
            # A newcomer that slept between looking and creating may have made an old, pruned number again.
            if _listing(lock)[0][-1] == generation:
                _prune(lock, generation)
                return cls(folder, generation, process, interval)
            _file(lock, generation).unlink(missing_ok=True)

    @property
    def lost(self) -> bool:
        """True once the heartbeat thread has seen another owner; cheap enough for every step."""
        return self._lost

    def check(self) -> None:
        """Raises LeaseLost if another process has taken the folder over, or the lock is gone."""
        generations, _ = _listing(self._lock)
        if generations and generations[-1] == self.generation:
            return
        self._lost = True
        newer = holder(self.folder)
        found = newer.describe() if newer else "no lock any more: the folder was cleared or moved"
        raise LeaseLost("another process has taken this run over", where=self.folder, found=found, expected=f"generation {self.generation}")

    def beat(self, force: bool = False, **progress: Any) -> None:
        """Updates what heartbeat.json will say (step, total, rate, loss, fid, phase, ...); written by the thread, or at once by `force`."""
        with self._guard:
            self._progress.update(progress)
            self._told = time.monotonic()
        if force:
            self.check()
            self._write()

    def release(self) -> None:
        """Gives the folder back; a second call does nothing."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        if not self._seen_lost():
            self._write()
            create_new(_file(self._lock, self.generation).with_suffix(RELEASED), b"")

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _beat_on(self) -> None:
        while not self._stop.wait(self.interval):
            # A full disk or an absent server must not end the heart: the touch needs no space, and the next beat tries again.
            with contextlib.suppress(OSError, HarnessError):
                if self._seen_lost():
                    return
                os.utime(_file(self._lock, self.generation))
                self._write()

    def _seen_lost(self) -> bool:
        generations, _ = _listing(self._lock)
        self._lost = self._lost or not generations or generations[-1] != self.generation
        return self._lost

    def _write(self) -> None:
        with self._guard:
            idle = time.monotonic() - self._told
            found = {"time": time.time(), "idle": round(idle, 1), **{key: self._process[key] for key in ("host", "pid")}, **self._progress}
        with contextlib.suppress(HarnessError):  # progress for people: never a reason to stop training
            write_json(self.folder / "heartbeat.json", {**found, "generation": self.generation}, durable=False)


def filesystem_now(folder: Path) -> float:
    """The time by the clock of the file system that holds `folder`: that of a file made now. The local time if it cannot be written."""
    probe = Path(folder) / f".clock-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def this_process() -> dict[str, Any]:
    """What names this process for ever: machine, boot, process number and its start time, and a random token."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "namespace": _namespace(),
        "pid": pid,
        "started": (_stat(pid) or ("", None))[1],
        "token": secrets.token_hex(8),
        "time": time.time(),
    }


def is_dead(process: Mapping[str, Any]) -> bool:
    """True if a process described by `this_process` is known to be gone; False if it lives or this machine cannot know."""
    here = {"host": socket.gethostname(), "boot": _boot(), "namespace": _namespace()}
    if not all(value and process.get(key) == value for key, value in here.items()):
        return False
    found = _stat(process["pid"])
    return found is None or found[0] in "ZX" or found[1] != process["started"]


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start time (clock ticks after boot) of a process, None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    """Containers on one machine may count their processes apart."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _content(text: bytes) -> dict[str, Any]:
    """What a generation file says. On a file system without links the content follows the name, so it may still be missing."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _file(lock: Path, generation: int) -> Path:
    return lock / f"{generation:06d}"


def _listing(lock: Path) -> tuple[list[int], set[int]]:
    """All generations in rising order, and the released ones."""
    try:
        names = os.listdir(lock)  # noqa: PTH208 - once per folder and per status row: Path objects would cost most of the time
    except FileNotFoundError:
        return [], set()
    released = {int(name[: -len(RELEASED)]) for name in names if name.endswith(RELEASED) and name[: -len(RELEASED)].isdigit()}
    return sorted(int(name) for name in names if name.isdigit()), released


def _prune(lock: Path, generation: int) -> None:
    """Removes all but the newest two generations."""
    with contextlib.suppress(OSError):
        for old in [old for old in _listing(lock)[0] if old < generation - 1]:
            for path in (_file(lock, old), _file(lock, old).with_suffix(RELEASED)):
                path.unlink(missing_ok=True)
