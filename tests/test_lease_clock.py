"""A lock whose heartbeat lies in the future, as of a machine with a wrong clock, and what killed processes leave beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweep_support import toy_run

from harness.errors import MissingFile
from harness.store import lease as lease_module
from harness.store.lease import EXPIRY, Busy, Lease, holder, this_process
from harness.store.runs import RunFolder, State, Store
from harness.sweep.status import status

DAY = 86_400.0
AHEAD = """
import os, sys, time
from pathlib import Path
from harness.store import lease
real = os.utime
os.utime = lambda path: real(path, (time.time() + 86_400, time.time() + 86_400))
owned = lease.Lease.acquire(Path(sys.argv[1]), interval=0.1)
os.utime(lease._file(owned._lock, owned.generation))
print("held", flush=True)
while True:
    time.sleep(0.05)
    try:
        owned.check()
    except lease.LeaseLost:
        print("lost", flush=True)
        sys.exit(76)
"""


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    run = toy_run(0)
    return RunFolder.create(tmp_path, run.id, run.to_dict())


@pytest.fixture
def elsewhere(folder) -> Path:
    """The lock of a process on another machine whose clock is a day ahead; nothing tells whether it lives."""
    lock = folder.path / "lock" / "000001"
    lock.parent.mkdir()
    lock.write_text(json.dumps({**this_process(), "host": "far", "boot": "b"}))
    beat(lock)
    return lock


def beat(lock: Path) -> None:
    os.utime(lock, (time.time() + DAY,) * 2)


def later(monkeypatch, seconds: float) -> None:
    """This machine's steady clock has gone on."""
    now = time.monotonic() + seconds
    monkeypatch.setattr(lease_module.time, "monotonic", lambda: now)


def test_a_dead_machine_with_a_clock_ahead_is_taken_over_after_the_usual_time(folder, elsewhere, monkeypatch):
    owner = holder(folder.path)
    assert owner.ahead == pytest.approx(DAY, abs=60) and owner.age == 0 and not owner.free()
    with pytest.raises(Busy) as caught:
        folder.acquire()
    assert "future" in str(caught.value) and "far" in str(caught.value) and f"{EXPIRY:.0f} s" in str(caught.value)
    later(monkeypatch, EXPIRY - 5)
    with pytest.raises(Busy):
        folder.acquire()
    later(monkeypatch, EXPIRY + 5)
    assert folder.state() is State.STALLED
    with folder.acquire() as lease:
        assert lease.generation == 2 and folder.state() is State.RUNNING and not holder(folder.path).ahead


def test_a_living_machine_with_a_clock_ahead_keeps_its_run(folder, elsewhere, monkeypatch):
    for number in range(1, 6):
        later(monkeypatch, number * 10 * EXPIRY)  # however rarely somebody looks
        beat(elsewhere)
        assert not holder(folder.path).free()
        with pytest.raises(Busy):
            folder.acquire()


def test_only_what_this_machine_has_seen_since_it_started_counts(folder, elsewhere):
    assert holder(folder.path).age == 0
    (note,) = elsewhere.parent.glob("000001.seen-*")
    heartbeat = elsewhere.stat().st_mtime_ns
    for content in ({"heartbeat": heartbeat, "since": time.monotonic() + 1e6}, {"heartbeat": heartbeat - 1, "since": 0.0}, {"since": None}):
        note.write_text(json.dumps(content))
        assert holder(folder.path).age == 0
    other = note.with_name("000001.seen-0123456789abcdef")
    note.rename(other)
    other.write_text(json.dumps({"heartbeat": heartbeat, "since": 0.0}))
    assert holder(folder.path).age == 0, "the clock of another machine"


def test_a_clock_that_is_a_little_ahead_needs_no_notes(folder, elsewhere):
    os.utime(elsewhere, (time.time() + EXPIRY / 2,) * 2)
    assert holder(folder.path).ahead == 0 and not holder(folder.path).free()
    assert not list(elsewhere.parent.glob("*.seen-*"))


def test_status_says_that_the_clock_is_wrong(folder, elsewhere):
    (row,) = status(Store(folder.path.parent.parent))
    assert row.state is State.RUNNING and "future" in row.reason


def test_a_stopped_process_with_a_clock_ahead_loses_its_run_and_knows(folder):
    command = [sys.executable, "-c", AHEAD, str(folder.path)]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    try:
        assert owner.stdout.readline() == "held\n"
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            with pytest.raises(Busy):
                folder.acquire(expiry=1.5)
            time.sleep(0.05)
        owner.send_signal(signal.SIGSTOP)
        with pytest.raises(Busy):
            folder.acquire(expiry=1.5)
        time.sleep(1.8)
        with folder.acquire(expiry=1.5) as lease:
            owner.send_signal(signal.SIGCONT)
            assert owner.stdout.readline() == "lost\n" and owner.wait(10) == 76
            lease.check()
    finally:
        owner.kill()
        owner.wait()


def test_what_killed_processes_leave_is_removed_once_nobody_can_be_using_it(folder):
    lock = folder.path / "lock"
    lock.mkdir()
    names = ["lock/.000001.7-abc.tmp", "lock/.clock-7-abc", ".config.json.7-abc.tmp", ".submitted.json.7-abc.tmp", ".clock-7-abc"]
    for age, kept in ((EXPIRY / 2, True), (2 * EXPIRY, False), (-DAY, False)):
        for name in names:
            (folder.path / name).touch()
            os.utime(folder.path / name, (time.time() - age,) * 2)
        folder.acquire().release()
        assert [(folder.path / name).exists() for name in names] == [kept] * len(names)
    assert [path.name for path in lock.iterdir() if path.name.startswith(".")] == []


def test_a_process_whose_temporary_file_was_removed_tries_again(folder, monkeypatch):
    real, failures = lease_module.create_new, [MissingFile("cannot write: No such file or directory")]

    def create_new(path, data):
        if failures:
            raise failures.pop()
        return real(path, data)

    monkeypatch.setattr(lease_module, "create_new", create_new)
    with Lease.acquire(folder.path) as lease:
        assert lease.generation == 1 and not failures


def test_a_takeover_removes_the_notes_of_earlier_generations(folder, elsewhere, monkeypatch):
    holder(folder.path)
    later(monkeypatch, EXPIRY + 5)
    assert holder(folder.path).free()
    for _ in range(3):
        folder.acquire().release()
    assert not list(elsewhere.parent.glob("*.seen-*"))
