"""Run folders and their lock, with real processes, real signals and a real limit on file sizes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_support import toy_run, wait_for

from harness.errors import ConfigMismatch, DamagedFile, HarnessError, MissingFile
from harness.locations import results_root
from harness.store import lease as lease_module
from harness.store.files import append_lines, create_new, read_json, read_lines, write_atomic
from harness.store.lease import Busy, Lease, LeaseLost, filesystem_now, holder, is_dead, this_process
from harness.store.provenance import code
from harness.store.records import FIELDS, Record, valid
from harness.store.runs import RunFolder, State, Store

SPAWN = multiprocessing.get_context("spawn")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start(code: str, *args: object) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])


HOLD = """
import sys, time
from pathlib import Path
from harness.store.lease import LeaseLost
from harness.store.runs import RunFolder
lease = RunFolder(Path(sys.argv[1])).acquire(interval=0.1)
print("held", flush=True)
while True:
    time.sleep(0.05)
    try:
        lease.check()
    except LeaseLost as error:
        print("lost", flush=True)
        sys.exit(76)
"""


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path, "digits-ic-s0-0123456789ab", {"format": 1, "seed": 0})


@pytest.fixture
def owner(folder):
    process = start(HOLD, folder.path)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


# --- files ---


def test_write_atomic_replaces_complete_files_and_leaves_no_temporary_files(tmp_path):
    path = tmp_path / "a.bin"
    write_atomic(path, b"one")
    write_atomic(path, b"two" * 100_000)
    assert path.read_bytes() == b"two" * 100_000
    assert names(tmp_path) == ["a.bin"]


def test_a_failed_write_names_path_and_cause_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HarnessError) as caught:
        write_atomic(path, b"new")
    assert "No space left on device" in str(caught.value) and str(path) in str(caught.value)
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a.bin"]


def test_a_disk_that_takes_no_more_leaves_everything_as_it_was(folder):
    """The limit on file sizes cuts a write short just as a full disk does."""
    code = """
import resource, sys
from pathlib import Path
from harness.errors import HarnessError
from harness.store.files import write_atomic
from harness.store.runs import RunFolder
folder = RunFolder(Path(sys.argv[1]))
write_atomic(folder.path / "a.bin", b"old")
folder.append_records([{"step": 1}])
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
for write in (lambda: folder.append_records([{"body": "x" * 300}]), lambda: write_atomic(folder.path / "a.bin", b"x" * 300)):
    try:
        write()
    except HarnessError as error:
        print(str(error).replace("\\n", " "), flush=True)
"""
    process = start(code, folder.path)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and len(output.splitlines()) == 2
    for line, name in zip(output.splitlines(), ("records.jsonl", "a.bin"), strict=True):
        assert str(folder.path / name) in line
    assert folder.records() == [{"step": 1}] and (folder.path / "records.jsonl").read_bytes().endswith(b"\n")
    assert (folder.path / "a.bin").read_bytes() == b"old" and not list(folder.path.glob(".*.tmp"))


def test_an_absent_folder_is_a_clear_error(tmp_path):
    with pytest.raises(MissingFile, match="absent"):
        write_atomic(tmp_path / "absent" / "a", b"")


def test_damaged_json_names_the_file(tmp_path):
    path = tmp_path / "x.json"
    for text in (b"", b'{"a": 1', b"[1]", b"\x00\x00"):
        path.write_bytes(text)
        with pytest.raises(DamagedFile) as caught:
            read_json(path)
        assert str(path) in str(caught.value)
    with pytest.raises(MissingFile, match="none"):
        read_json(tmp_path / "none.json")


ROWS = st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=8), max_size=3), max_size=5)


@given(rows=ROWS, cut=st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_any_incomplete_end_is_cut_off_and_the_complete_lines_stay(tmp_path_factory, rows, cut):
    path = tmp_path_factory.mktemp("torn") / "r.jsonl"
    append_lines(path, rows)
    text = path.read_bytes() if rows else b""
    path.write_bytes(text[: max(0, len(text) - cut)])
    complete = read_lines(path)
    assert complete == rows[: len(complete)]
    assert len(complete) >= path.read_bytes().count(b"\n")
    append_lines(path, [{"next": 1}])
    assert read_lines(path) == [*complete, {"next": 1}]


def test_damage_inside_records_is_named_or_left_out(folder):
    folder.append_records([{"step": 1}, {"step": 2}])
    path = folder.path / "records.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"step":1}', b'{"st\x00\x00'))
    with pytest.raises(DamagedFile) as caught:
        folder.records()
    assert f"{path}:1" in str(caught.value)
    messages = []
    assert folder.records(on_damage=messages.append) == [{"step": 2}]
    assert len(messages) == 1 and "records.jsonl:1" in messages[0]


RECORD = {
    "run": "r", "step": 5, "images": 640, "seconds": 1.5, "metric": "fid", "value": 2.0, "sd": None, "se": 0.1, "n": 500, "resamplings": 1,
    "final": False, "protocol": "0123456789ab", "check": "0123456789ab0123456789ab",
}  # fmt: skip


def test_a_record_keeps_its_json_form():
    record = Record.from_json(RECORD)
    assert json.dumps(record.to_json()) == json.dumps(RECORD) and list(RECORD) == list(FIELDS)
    assert record.key == (5, "fid", False) and Record.from_json({**RECORD, "later": 1}) == record
    assert Record.from_json({key: RECORD[key] for key in ("step", "metric", "value", "final", "protocol")}).images is None
    without = {key: value for key, value in RECORD.items() if key != "check"}
    assert Record.from_json(without).to_json() == without, "records of earlier versions have no checksum"


@pytest.mark.parametrize("change", [{"value": float("nan")}, {"value": None}, {"step": 5.0}, {"final": 1}, {"metric": 3}, {"sd": "0"}])
def test_a_record_of_another_form_is_not_valid(change):
    assert valid(RECORD) and not valid(RECORD | change)


def test_create_new_lets_exactly_one_in_even_without_hard_links(tmp_path, monkeypatch):
    assert create_new(tmp_path / "a", b"1") and not create_new(tmp_path / "a", b"2")

    def no_links(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    assert create_new(tmp_path / "b", b"1") and not create_new(tmp_path / "b", b"2")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == b"1"


# --- run folders ---


def test_create_is_idempotent_and_refuses_another_identity(tmp_path):
    run = toy_run()
    config = run.to_dict()
    folder = RunFolder.create(tmp_path, run.id, config)
    RunFolder.create(tmp_path, run.id, {**config, "checkpoint_every": 7})
    assert folder.config() == config, "config.json is written once"
    with pytest.raises(ConfigMismatch) as caught:
        RunFolder.create(tmp_path, run.id, {**config, "seed": 5})
    assert "seed: 0 -> 5" in str(caught.value) and folder.config() == config


def test_states_come_from_the_files(folder):
    assert RunFolder(folder.path.parent / "absent").state() is State.NEW
    assert folder.state() is State.NEW
    with folder.acquire() as lease:
        assert folder.state() is State.RUNNING
        assert folder.state(now=filesystem_now(folder.path) + 121) is State.STALLED
        lease.beat(step=3, total=9, force=True)
        assert (folder.read_heartbeat()["step"], folder.read_heartbeat()["total"]) == (3, 9)
    assert folder.state() is State.STOPPED and folder.owner() is None
    folder.write_error("diverged", "loss is nan", step=4)
    assert folder.state() is State.FAILED and folder.error()["kind"] == "diverged"
    with folder.acquire():
        assert folder.state() is State.RUNNING and folder.error() is None
    assert read_json(folder.path / "error-2.json")["message"] == "loss is nan", "an old error is kept"
    folder.write_result({"fid": 1.0})
    assert folder.state() is State.DONE and folder.result() == {"fid": 1.0}


def test_find_takes_unique_beginnings_of_name_or_hash(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(HarnessError, match=str(store.runs)):
        store.find("x")
    for name in ("digits-ic-s0-aaaa00000000", "digits-ic-s1-bbbb00000000"):
        RunFolder.create(tmp_path, name, {})
    assert store.find("bbbb").id == store.find("digits-ic-s1").id == "digits-ic-s1-bbbb00000000"
    with pytest.raises(HarnessError, match="digits-ic-s0-aaaa00000000, digits-ic-s1-bbbb00000000"):
        store.find("digits")
    with pytest.raises(HarnessError) as caught:
        store.find("digits-ic-s0-aaaa0000000x")
    assert caught.value.details["nearest"] == "digits-ic-s0-aaaa00000000"


def test_results_root_obeys_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "r"))
    assert results_root() == tmp_path / "r"
    monkeypatch.delenv("HARNESS_RESULTS")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    assert results_root() == tmp_path / "results"


def test_a_submission_is_claimed_once_and_waits_until_a_process_begins(tmp_path, folder):
    store = Store(tmp_path)
    store.mark_submitted(folder.id, "t1", "slurm")
    assert folder.state() is State.QUEUED and folder.submission()["job_id"] is None
    with pytest.raises(HarnessError, match="job"):
        store.mark_submitted(folder.id, "t2", "slurm")
    store.mark_submitted(folder.id, "t1", "slurm", "42_1")
    assert folder.state() is State.QUEUED and folder.submission()["job_id"] == "42_1"
    with folder.acquire():
        assert folder.state() is State.RUNNING
    store.mark_submitted(folder.id, "t1", "slurm", "42_1")
    assert folder.state() is State.STOPPED, "a job id that is recorded late does not make a begun run wait again"
    store.mark_submitted(folder.id, "t1", "slurm")
    assert folder.state() is State.QUEUED, "a requeued job waits again"
    store.clear_submission(folder.id, "other")
    assert folder.submission()["token"] == "t1"
    store.clear_submission(folder.id, "t1")
    assert folder.submission() is None and folder.state() is State.STOPPED


def test_the_store_needs_no_torch_and_no_pydantic():
    code = "import sys, harness.store.runs; sys.exit(bool({'torch', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0


def test_provenance_names_commit_and_uncommitted_changes(tmp_path):
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "a.py").write_text("x = 1\n")
    (tmp_path / "notes.txt").write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    clean = code.__wrapped__(tmp_path)
    assert len(clean["commit"]) == 40 and clean["dirty"] is None
    (tmp_path / "notes.txt").write_text("not code")
    assert code.__wrapped__(tmp_path) == clean
    (tmp_path / "harness" / "a.py").write_text("x = 2\n")
    assert len(code.__wrapped__(tmp_path)["dirty"]) == 12
    assert code.__wrapped__(tmp_path / "absent") == {"commit": None, "dirty": None}


# --- one writer ---


def test_a_second_process_learns_who_works(folder, owner):
    with pytest.raises(Busy) as caught:
        folder.acquire()
    assert f"process {owner.pid} on" in str(caught.value) and "since" in str(caught.value) and "heartbeat" in str(caught.value)
    assert folder.state() is State.RUNNING


def test_the_folder_of_a_killed_owner_is_taken_over_at_once(folder, owner):
    owner.send_signal(signal.SIGKILL)  # not waited for: a zombie is dead too
    wait_for(lambda: folder.state() is State.STALLED)
    with folder.acquire() as lease:
        assert lease.generation == 2
    owner.wait()


def test_a_sleeper_loses_its_folder_and_knows(folder, owner):
    owner.send_signal(signal.SIGSTOP)
    with pytest.raises(Busy):
        folder.acquire(expiry=0.5)
    time.sleep(0.7)
    with folder.acquire(expiry=0.5) as lease:
        owner.send_signal(signal.SIGCONT)
        assert owner.stdout.readline() == "lost\n"
        assert owner.wait(10) == 76
        lease.check()
    assert holder(folder.path).generation == 2


def test_lease_lost_stops_writes_and_release_leaves_the_new_owner_alone(folder):
    with folder.acquire(interval=60) as old:
        time.sleep(0.05)
        with Lease.acquire(folder.path, expiry=0.01) as new:
            with pytest.raises(LeaseLost, match="generation 1"):
                old.check()
            with pytest.raises(LeaseLost):
                old.beat(step=1, force=True)
            old.release()
            new.check()
            assert folder.state() is State.RUNNING
    assert old.lost


def test_a_cleared_folder_is_a_lost_lease(folder):
    with folder.acquire() as lease:
        folder.path.rename(folder.path.with_name("moved"))
        with pytest.raises(LeaseLost, match="generation 1"):
            lease.check()


def test_wrong_clocks_do_not_expire_a_lease(folder, owner, monkeypatch):
    for shift in (-1e6, 1e6):
        now = time.time() + shift
        monkeypatch.setattr(lease_module.time, "time", lambda now=now: now)
        with pytest.raises(Busy):
            folder.acquire(expiry=5)
    assert owner.poll() is None


def test_the_heartbeat_thread_keeps_a_busy_owner_alive(folder, owner):
    time.sleep(1.0)
    assert holder(folder.path).age < 0.9
    with pytest.raises(Busy):
        folder.acquire(expiry=0.95)


def test_only_the_same_machine_can_know_of_a_death():
    me = this_process()
    assert not is_dead(me)
    assert is_dead({**me, "started": -1}), "the number was given to another process"
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert is_dead({**me, "pid": gone.pid})
    for elsewhere in ({"host": "other"}, {"boot": "other"}, {"namespace": "pid:[1]"}):
        assert not is_dead({**me, "pid": gone.pid, **elsewhere})


def test_old_generations_are_pruned(folder):
    for _ in range(5):
        folder.acquire().release()
    assert [name for name in names(folder.path / "lock") if name.isdigit()] == ["000004", "000005"]


def test_a_newcomer_with_an_outdated_view_withdraws(folder, monkeypatch):
    """It decided when generation 1 was the highest, then slept; meanwhile 2 to 4 came, and 2 was pruned."""
    folder.acquire().release()
    stale = holder(folder.path)
    for _ in range(2):
        folder.acquire().release()
    current = folder.acquire()
    answers = iter([stale])
    real = lease_module.holder
    monkeypatch.setattr(lease_module, "holder", lambda *args: next(answers, None) or real(*args))
    with pytest.raises(Busy):
        folder.acquire()
    current.check()
    current.release()
    assert not (folder.path / "lock" / "000002").exists()


def _race(connection) -> None:
    """Runs in a process of its own: tries to own each folder it is sent, and releases it on request."""
    while (path := connection.recv()) is not None:
        try:
            lease = Lease.acquire(path, expiry=30, interval=60)
            connection.send(lease.generation)
        except Busy:
            lease = None
            connection.send(0)
        connection.recv()
        if lease:
            lease.release()
        connection.send("ready")


def test_racing_processes_never_both_win(tmp_path):
    pipes = [SPAWN.Pipe() for _ in range(3)]
    racers = [SPAWN.Process(target=_race, args=(child,), daemon=True) for _, child in pipes]
    for racer in racers:
        racer.start()
    winners = set()
    for round_ in range(150):
        folder = RunFolder.create(tmp_path, f"run-{round_ // 3}", {})  # new, then released, then expired
        if round_ % 3 == 2:
            forgotten = Lease.acquire(folder.path, interval=60)
            os.utime(folder.path / "lock" / f"{forgotten.generation:06d}", (1, 1))
        for parent, _ in pipes:
            parent.send(folder.path)
        won = [parent.recv() for parent, _ in pipes]
        assert sum(generation > 0 for generation in won) == 1, won
        winners.add(next(i for i, generation in enumerate(won) if generation))
        for parent, _ in pipes:
            parent.send("release")
        assert [parent.recv() for parent, _ in pipes] == ["ready"] * 3
    for (parent, _), racer in zip(pipes, racers, strict=True):
        parent.send(None)
        racer.join(10)
    assert len(winners) > 1, "the same process always won"


def _contend(path: Path, seconds: float, queue) -> None:
    """Owns and gives back as often as it can; entering a room that must be empty."""
    room, entered, clashes = path / "room", 0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with Lease.acquire(path, interval=60):
                try:
                    room.touch(exist_ok=False)
                    time.sleep(0.001)
                    room.unlink()
                    entered += 1
                except OSError:
                    clashes += 1
        except Busy:
            pass
    queue.put((entered, clashes))


def test_owners_exclude_each_other_under_contention(tmp_path):
    queue = SPAWN.Queue()
    processes = [SPAWN.Process(target=_contend, args=(tmp_path, 2.0, queue), daemon=True) for _ in range(3)]
    for process in processes:
        process.start()
    counts = [queue.get(timeout=60) for _ in processes]
    assert sum(clashes for _, clashes in counts) == 0
    assert sum(entered for entered, _ in counts) > 20


def test_killed_writers_leave_complete_files(tmp_path):
    """A writer is killed at 15 odd moments: the file is always one of the versions it wrote, and the records are complete lines."""
    code = """
import itertools, json, sys
from pathlib import Path
from harness.store.files import write_atomic
from harness.store.runs import RunFolder
folder = RunFolder(Path(sys.argv[1]))
print("go", flush=True)
for i in itertools.count():
    write_atomic(folder.path / "state.json", json.dumps({"i": i, "body": "x" * 200_000}).encode(), durable=False)
    folder.append_records([{"i": i, "body": "y" * 5_000}])
"""
    folder = RunFolder.create(tmp_path, "run", {})
    for attempt in range(15):
        process = start(code, folder.path)
        assert process.stdout.readline() == "go\n"
        time.sleep(0.01 + 0.007 * attempt)
        process.kill()
        process.wait()
        if (folder.path / "state.json").exists():
            assert len(json.loads((folder.path / "state.json").read_bytes())["body"]) == 200_000
        assert all(len(row["body"]) == 5_000 for row in folder.records())
    folder.append_records([{"i": -1}])
    assert folder.records()[-1] == {"i": -1}
