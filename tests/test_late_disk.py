"""A shared file system that is late, a quota that is reached in the middle, clocks that jump: nothing is lost, and no two own a folder.

The shims change what the store is told, as a network file system does: names that are not there yet, old times, EDQUOT.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_job import last_state, make, rows
from train_support import difference, tiny_run

from harness.config.parts import Evaluation
from harness.config.run import Run
from harness.errors import MissingFile
from harness.store import files, lease, record_file
from harness.store.exit_codes import ExitCode
from harness.store.lease import EXPIRY, Busy, LeaseLost
from harness.store.runs import RunFolder, State, Store
from harness.sweep.status import status
from harness.training import checkpoints, job

DAY = 86_400.0


def small() -> Run:
    return tiny_run("gc", steps=24, checkpoint_every=5, evaluation=Evaluation(every=8, samples=16, resamplings=2, grid=4))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> RunFolder:
    folder = make(tmp_path_factory.mktemp("undisturbed"), small())
    assert job.main([str(folder.path), "--device", "cpu"]) == ExitCode.DONE
    return folder


def ends_as(folder: RunFolder, undisturbed: RunFolder) -> bool:
    """Whether the same command, now undisturbed, ends the run with the same model and records."""
    assert job.main([str(folder.path), "--device", "cpu"]) == ExitCode.DONE
    assert difference(last_state(folder), last_state(undisturbed)) == []
    assert sorted(map(repr, rows(folder))) == sorted(map(repr, rows(undisturbed)))
    return folder.state() is State.DONE and folder.result()["fid"] == undisturbed.result()["fid"]


# --- late names and times ---


@pytest.mark.parametrize("late", [1, 2, 20])
def test_an_old_listing_of_the_lock_lets_no_second_owner_in(tmp_path, monkeypatch, late):
    folder = make(tmp_path, small())
    folder.acquire().release()
    lock = folder.path / "lock"
    old, listdir, calls = [path.name for path in lock.iterdir()], os.listdir, itertools.count()
    with folder.acquire(interval=60) as owner:
        monkeypatch.setattr(lease.os, "listdir", lambda path: old if Path(path) == lock and next(calls) < late else listdir(path))
        with pytest.raises(Busy):
            folder.acquire()
        assert next(calls) > late
        owner.check()


def test_a_listing_that_names_a_removed_file_is_read_again_and_a_link_to_nothing_is_named(tmp_path, monkeypatch):
    folder = make(tmp_path, small())
    folder.acquire().release()
    lock, listdir, calls = folder.path / "lock", os.listdir, itertools.count()
    monkeypatch.setattr(lease.os, "listdir", lambda path: ["000009"] if Path(path) == lock and next(calls) < 3 else listdir(path))
    assert lease.holder(folder.path).generation == 1
    (lock / "000010").symlink_to("nowhere")
    with pytest.raises(MissingFile):
        lease.holder(folder.path)
    (summary,) = status(Store(tmp_path))
    assert "000010" in summary.reason or str(lock) in summary.reason


def test_a_heartbeat_that_is_seen_late_is_still_one(tmp_path, monkeypatch):
    """Attributes may be a minute old; with the heartbeat's interval that is well below the expiry."""
    folder = make(tmp_path, small())
    with folder.acquire() as owner:
        newest = folder.path / "lock" / f"{owner.generation:06d}"
        beaten = newest.stat().st_mtime
        os.utime(newest, (beaten - 70, beaten - 70))
        with pytest.raises(Busy):
            folder.acquire()
        os.utime(newest, (beaten - EXPIRY - 5, beaten - EXPIRY - 5))
        folder.acquire(interval=60)
        with pytest.raises(LeaseLost):
            owner.check()


@pytest.fixture
def hidden(monkeypatch) -> Callable[[str, int], Counter[str]]:
    """hidden(name, looks): files of that name are absent for so many looks of the store; returns how often it looked."""

    def hide(name: str, looks: int) -> Counter[str]:
        seen: Counter[str] = Counter()

        def absent(path: Path) -> bool:
            seen[Path(path).name] += 1
            return Path(path).name == name and seen[name] <= looks

        def reading(read):
            def read_late(path: Path) -> bytes:
                if absent(path):
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
                return read(path)

            return read_late

        exists, steps = Path.exists, checkpoints.checkpoint_steps
        monkeypatch.setattr(Path, "exists", lambda self, **options: not absent(self) and exists(self, **options))
        for module in (files, record_file):
            monkeypatch.setattr(module, "read_regular", reading(module.read_regular))

        def steps_seen(folder: Path) -> list[int]:
            return [step for step in steps(folder) if not absent(folder / f"step-{step:08d}.json")]

        monkeypatch.setattr(checkpoints, "checkpoint_steps", steps_seen)
        return seen

    return hide


@pytest.mark.parametrize("looks", [1, 10])
@pytest.mark.parametrize("name", ["result.json", "records.jsonl"])
def test_a_node_that_does_not_see_a_file_of_a_done_run_yet_trains_nothing(tmp_path, monkeypatch, undisturbed, hidden, name, looks):
    folder = make(tmp_path, small())
    assert job.main([str(folder.path), "--device", "cpu"]) == ExitCode.DONE
    before = rows(folder)
    seen = hidden(name, looks)
    assert job.main([str(folder.path), "--device", "cpu"]) == ExitCode.DONE
    monkeypatch.undo()
    assert seen[name] and all(attempt["step"] in (0, 24) for attempt in folder.attempts()) and len(folder.attempts()) <= 2
    assert sorted(map(repr, rows(folder))) == sorted(map(repr, before)) and ends_as(folder, undisturbed)


def test_a_node_that_sees_an_older_checkpoint_continues_there_to_the_same_end(tmp_path, monkeypatch, undisturbed, hidden):
    folder = make(tmp_path, small())
    with monkeypatch.context() as patched:
        save = checkpoints.save

        def stop_after(*arguments, **options):
            save(*arguments, **options)
            if arguments[2] == 15:
                raise KeyboardInterrupt

        patched.setattr(checkpoints, "save", stop_after)
        with pytest.raises(KeyboardInterrupt):
            job.main([str(folder.path), "--device", "cpu"])
    assert folder.stored_steps() == [10, 15]
    hidden("step-00000015.json", 1)
    assert job.main([str(folder.path), "--device", "cpu"]) == ExitCode.DONE
    monkeypatch.undo()
    assert [attempt["step"] for attempt in folder.attempts()] == [0, 10]
    assert ends_as(folder, undisturbed)


# --- a quota ---


@pytest.fixture(scope="module")
def syncs(tmp_path_factory) -> int:
    """How often a job waits for the disk."""
    with pytest.MonkeyPatch.context() as patched:
        calls, fsync = itertools.count(), os.fsync
        patched.setattr(os, "fsync", lambda descriptor: (next(calls), fsync(descriptor))[1])
        folder = make(tmp_path_factory.mktemp("counted"), small())
        assert job.main([str(folder.path), "--device", "cpu"]) == ExitCode.DONE
        return next(calls)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.85])
def test_a_quota_that_is_reached_anywhere_costs_nothing(tmp_path, monkeypatch, capsys, undisturbed, syncs, share):
    """From one moment on, nothing more can be written, and the folder is free although its release cannot be written."""
    folder, calls, fsync, number = make(tmp_path, small()), itertools.count(), os.fsync, errno.EDQUOT

    def full(descriptor: int) -> None:
        if next(calls) >= share * syncs:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert job.main([str(folder.path), "--device", "cpu"]) == ExitCode.BAD_INPUT
    assert os.strerror(number) in capsys.readouterr().err
    monkeypatch.undo()
    assert not [path for path in folder.path.rglob("*.tmp") if path.parent.name != "lock"]
    assert ends_as(folder, undisturbed)


# --- clocks ---


def jumping() -> Iterator[float]:
    """The time, now a day late, now a day early."""
    clock = time.time
    for sign in itertools.cycle((1, -1, 0)):
        yield clock() + sign * DAY


def test_a_clock_that_jumps_by_days_changes_no_number(tmp_path, monkeypatch, undisturbed):
    folder, clock = make(tmp_path, small()), jumping()
    next(clock)
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: next(clock))
        assert job.main([str(folder.path), "--device", "cpu"]) == ExitCode.DONE
        assert [summary.state for summary in status(Store(tmp_path))] == [State.DONE]
    assert ends_as(folder, undisturbed)
    assert 0 < folder.result()["seconds"] < 3600 and all(0 <= row["seconds"] < 3600 for row in folder.records())


def test_an_owner_that_seems_dead_when_the_servers_clock_jumps_writes_nothing_more(tmp_path):
    """The last heartbeat seems a day old until the next one."""
    folder = make(tmp_path, small())
    with folder.acquire(interval=60) as owner:
        newest = folder.path / "lock" / f"{owner.generation:06d}"
        os.utime(newest, (time.time() - DAY,) * 2)
        with folder.acquire(interval=60) as newer:
            with pytest.raises(LeaseLost):
                owner.check()
            newer.check()
