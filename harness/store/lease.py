"""One writer per folder: a lock that survives crashes, expires without heartbeats and is safe on a shared file system.

The lock is a sequence of generation files lock/000001, 000002, ...; the process that created the highest one owns the folder. Another
process may create the next one only if the highest is released, its process is dead on this machine, or its heartbeat is too old. Creation
is exclusive, so exactly one process wins; an owner that was suspended for longer sees a higher generation and knows that it has lost.
Ages are differences of times of one clock, the file system's, so the clocks of the machines may differ.

Some file systems take the time of a heartbeat from the machine that writes it. Where its clock is ahead, the heartbeat lies in the future
and has no age. Each machine then notes in lock/<generation>.seen-<machine> since when, by its own steady clock, it has seen this heartbeat
and no newer one: a living owner sends another after seconds, so that only a dead one is taken over after the same expiry.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, MissingFile
from harness.locations import open_regular, read_regular
from harness.store.exit_codes import ExitCode
from harness.store.fields import OWNER, well_formed
from harness.store.files import create_new, disk_errors, encode, parse_object, write_json

EXPIRY = 120.0
"""Seconds without a heartbeat after which another process may take the folder over."""
INTERVAL = 5.0
"""Seconds between heartbeats."""
CLOCK = ".clock-"
"""Files that exist for a moment to read the clock of the file system."""
LOOKS = 6
"""Listings of a lock whose newest file is not there before that is an error."""
RELEASED, SEEN = ".released", ".seen-"


class Busy(HarnessError):
    """Another process works on the folder."""

    exit_code = ExitCode.BUSY


class LeaseLost(HarnessError):
    """Another process has taken the folder over, so nothing more may be written to it."""

    exit_code = ExitCode.BUSY


@dataclass(frozen=True)
class Holder:
    """The owner of a folder, as written in the highest generation file."""

    generation: int
    released: bool
    age: float
    """Seconds since the last heartbeat, by the clock of the file system; of one in the future, since this machine first saw it."""
    process: Mapping[str, Any]
    """As from `this_process`; empty while the file is being written on a file system without hard links."""
    ahead: float = 0.0
    """Seconds by which the last heartbeat lies in the future, 0 for one that does not."""

    def free(self, expiry: float = EXPIRY) -> bool:
        """True if another process may take the folder: released, expired, or its process is known to be dead."""
        return self.released or self.age > expiry or is_dead(self.process)

    def describe(self) -> str:
        """The process, its machine, its start by its own clock, and the age of its last heartbeat."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.process.get("time", 0)))
        pid, host = self.process.get("pid", 0), self.process.get("host", "an unknown machine")
        return f"process {pid} on {host} since {since}, {self.heartbeat}"

    @property
    def heartbeat(self) -> str:
        """When the last heartbeat was, in words."""
        if not self.ahead:
            return f"last heartbeat {self.age:.0f} s ago"
        return (
            f"last heartbeat {self.ahead:,.0f} s in the future, so the clock of that machine is wrong; "
            f"no newer one for {self.age:.0f} s, after {EXPIRY:.0f} s another process may take the folder over"
        )


def holder(folder: Path, now: float | None = None, looks: int = 1) -> Holder | None:
    """The owner of the highest generation of a run folder, None if it never had one. `now`: time of the file system's clock.

    looks: how often the lock was listed. Raises MissingFile if LOOKS listings name a file that is not there.
    """
    lock = folder / "lock"
    with disk_errors(lock, "read"):
        generations, released = _listing(lock)
        if not generations:
            return None
        newest = generations[-1]
        try:
            with open_regular(_file(lock, newest)) as file:  # opening makes a network file system look up the true time
                facts = os.fstat(file.fileno())
                process = well_formed(parse_object(file.read()) or {}, OWNER)
        except FileNotFoundError:  # pruned since the listing, so there is a higher one; a link to nothing stays
            if looks < LOOKS:
                time.sleep(0.1)
                return holder(folder, now, looks + 1)
            raise
    if newest in released:
        return Holder(newest, True, 0.0, process)
    elapsed = (filesystem_now(lock) if now is None else now) - facts.st_mtime
    if elapsed >= -EXPIRY:
        return Holder(newest, False, max(0.0, elapsed), process)
    return Holder(newest, False, _unchanged_for(lock, newest, facts.st_mtime_ns), process, -elapsed)


def _unchanged_for(lock: Path, generation: int, heartbeat: int) -> float:
    """Seconds for which this machine has seen this heartbeat (its time in ns) and no newer one, by a clock that is never set.

    0 at the first sight, and for ever on a machine that cannot be told from others or that may not write the note.
    """
    machine, now = _machine(), time.monotonic()
    if not machine["boot"]:
        return 0.0
    path = lock / f"{generation:06d}{SEEN}{hashlib.sha256(repr(machine).encode()).hexdigest()[:16]}"
    note: dict[str, Any] = {}
    with contextlib.suppress(OSError):
        note = parse_object(read_regular(path)) or {}
    since = note.get("since")
    if note.get("heartbeat") == heartbeat and isinstance(since, float) and since <= now:
        return now - since
    with contextlib.suppress(HarnessError):
        write_json(path, {"heartbeat": heartbeat, "since": now}, durable=False)
    return 0.0


class Lease:
    """Ownership of a run folder, with a daemon thread that sends a heartbeat every `interval` seconds. A context manager.

    Created by `Lease.acquire`. `beat` sets what the thread writes to heartbeat.json; `check` must precede every write.
    """

    def __init__(self, folder: Path, generation: int, process: Mapping[str, Any], interval: float) -> None:
        self.folder, self.generation, self.interval = folder, generation, interval
        self.lost = False
        """True once another owner was seen; cheap enough to read at every step."""
        self._lock, self._process = folder / "lock", process
        self._progress: dict[str, Any] = {}
        self._updated = time.monotonic()
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(cls, folder: Path, expiry: float = EXPIRY, interval: float = INTERVAL) -> Lease:
        """Owns `folder`, or raises Busy, which states the owner, its start and the age of its last heartbeat."""
        lock = folder / "lock"
        with disk_errors(lock):
            lock.mkdir(parents=True, exist_ok=True)
        process = this_process()
        while True:
            current = holder(folder)
            if current and not current.free(expiry):
                raise Busy("another process works on this run", where=folder, found=current.describe(), expected="one writer per folder")
            generation = current.generation + 1 if current else 1
            try:
                if not create_new(_file(lock, generation), encode(process)):
                    continue
            except MissingFile:
                if lock.is_dir():  # this process was suspended, and an owner has removed its temporary file
                    continue
                raise
            # A process that was suspended before `create_new` may have created a generation again that was pruned in the meantime.
            if _listing(lock)[0][-1] == generation:
                _prune(lock, generation)
                remove_left_behind(lock)
                return cls(folder, generation, process, interval)
            _file(lock, generation).unlink(missing_ok=True)

    def check(self) -> None:
        """Raises LeaseLost if another process has taken the folder over, or the lock is gone."""
        generations, _ = _listing(self._lock)
        if generations and generations[-1] == self.generation:
            return
        self.lost = True
        newer = holder(self.folder)
        owner = newer.describe() if newer else "no lock: the folder was cleared or moved"
        raise LeaseLost("another process has taken this run over", where=self.folder, found=owner, expected=f"generation {self.generation}")

    def beat(self, force: bool = False, **progress: Any) -> None:
        """Updates the content of heartbeat.json (step, total, rate, loss, fid, phase, ...), which the thread writes, or `force` at once."""
        with self._guard:
            self._progress.update(progress)
            self._updated = time.monotonic()
        if force:
            self.check()
            self._write()

    def release(self) -> None:
        """Gives the folder back; a second call does nothing."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        if self._still_owner():
            self._write()
            try:
                create_new(_file(self._lock, self.generation).with_suffix(RELEASED), b"")
            except HarnessError:  # a full disk has no room for a file, but for a time: a heartbeat of long ago frees the folder as well
                os.utime(_file(self._lock, self.generation), (0, 0))
            remove_left_behind(self._lock)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _keep_beating(self) -> None:
        while not self._stop.wait(self.interval):
            # A full disk or an unreachable server must not stop the heartbeat: utime needs no space, and the next turn tries again.
            with contextlib.suppress(OSError, HarnessError):
                if not self._still_owner():
                    return
                os.utime(_file(self._lock, self.generation))
                self._write()

    def _still_owner(self) -> bool:
        with contextlib.suppress(LeaseLost):
            if not self.lost:
                self.check()
        return not self.lost

    def _write(self) -> None:
        with self._guard:
            idle = round(time.monotonic() - self._updated, 1)
            owner = {key: self._process[key] for key in ("host", "pid")}
            content = {"time": time.time(), "idle": idle, **owner, **self._progress, "generation": self.generation}
        with contextlib.suppress(HarnessError):  # only progress for people: never a reason to stop training
            write_json(self.folder / "heartbeat.json", content, durable=False)


def filesystem_now(folder: Path) -> float:
    """The time by the clock of the file system that holds `folder`: that of a new file. The local time if it cannot be written."""
    probe = folder / f"{CLOCK}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def this_process() -> dict[str, Any]:
    """What identifies this process uniquely: machine, boot, process number and its start time, and a random token."""
    pid = os.getpid()
    _, started = _stat(pid) or ("", None)
    return {**_machine(), "pid": pid, "started": started, "token": secrets.token_hex(8), "time": time.time()}


def is_dead(process: Mapping[str, Any]) -> bool:
    """True if a process described by `this_process` is known to be gone; False if it lives or this machine cannot know."""
    if not all(value and process.get(key) == value for key, value in _machine().items()):
        return False
    if "pid" not in process:
        return False
    stat = _stat(process["pid"])
    return stat is None or stat[0] in "ZX" or stat[1] != process.get("started")


def _machine() -> dict[str, str]:
    """Host name, boot id and process namespace ("" if unknown); containers on one machine may number their processes separately."""
    identity = {"host": socket.gethostname(), "boot": "", "namespace": ""}
    with contextlib.suppress(OSError):
        identity["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        identity["namespace"] = str(Path("/proc/self/ns/pid").readlink())
    return identity


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start time (clock ticks after boot) of a process, None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])


def _file(lock: Path, generation: int) -> Path:
    return lock / f"{generation:06d}"


def _listing(lock: Path) -> tuple[list[int], set[int]]:
    """All generations in rising order, and the released ones."""
    try:
        names = os.listdir(lock)  # noqa: PTH208 - once per folder and per status row: Path objects would take most of the time
    except FileNotFoundError:
        return [], set()
    released = {int(name[: -len(RELEASED)]) for name in names if name.endswith(RELEASED) and name[: -len(RELEASED)].isdecimal()}
    return sorted(int(name) for name in names if name.isdecimal()), released


def _prune(lock: Path, generation: int) -> None:
    """Removes all but the newest two generations."""
    with contextlib.suppress(OSError):
        for old in [old for old in _listing(lock)[0] if old < generation - 1]:
            for path in (_file(lock, old), _file(lock, old).with_suffix(RELEASED), *lock.glob(f"{old:06d}{SEEN}*")):
                path.unlink(missing_ok=True)


def remove_left_behind(folder: Path) -> None:
    """Removes temporary files of killed processes: those that are older than EXPIRY, since younger ones may still be in use."""
    with contextlib.suppress(OSError):
        paths = [path for pattern in (".*.tmp", f"{CLOCK}*") for path in folder.glob(pattern)]
        now = filesystem_now(folder) if paths else 0.0
        for path in paths:
            if abs(now - path.stat().st_mtime) > EXPIRY:
                path.unlink(missing_ok=True)
