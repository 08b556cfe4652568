"""What `harness status` shows of run folders in every state, and how fast."""

from __future__ import annotations

import io
import json
import os
import time

import pytest
from rich.console import Console
from sweep_support import toy_run

from harness.store.runs import RunFolder, State, Store
from harness.sweep.status import status, table, totals, watch


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results")


def folder_of(store: Store, run) -> RunFolder:
    return RunFolder.create(store.root, run.id, run.to_dict())


def test_a_row_shows_state_progress_and_last_fid(store):
    working, old, failed, stalled, queued = (toy_run(seed) for seed in range(5))
    owner = folder_of(store, working).acquire()
    store.folder(working.id).add_attempt({"host": "a"})
    store.folder(working.id).add_attempt({"host": "b"})
    owner.beat(step=5, total=20, rate=3.0, loss=0.5, fid=12.25, force=True)
    folder_of(store, old).write_result({"fid": 7.5, "rate": 100.0})
    folder_of(store, failed).write_error("diverged", "loss is nan\nmore")
    lost = folder_of(store, stalled).acquire(interval=60)
    os.utime(store.folder(stalled.id).path / "lock" / "000001", (1, 1))
    folder_of(store, queued)
    store.mark_submitted(queued.id, "t", "slurm", None)
    store.mark_submitted(queued.id, "t", "slurm", "77_3")
    rows = {summary.id: summary for summary in status(store)}
    assert [rows[run.id].state for run in (working, old, failed, stalled, queued)] == ["running", "done", "failed", "stalled", "queued"]
    row = rows[working.id]
    assert (row.step, row.total, row.rate, row.fid, row.restarts) == (5, 20, 3.0, 12.25, 1) and row.seconds_left == 5.0 and row.age < 30
    assert rows[old.id].fid == 7.5 and rows[old.id].step == 20 and rows[old.id].seconds_left is None
    assert rows[queued.id].job == "77_3" and rows[stalled.id].age > 1e6
    text = table(list(rows.values())).plain
    assert "scale=toy" in text and "W2" in text and "5/20" in text and "77_3" in text and "loss is nan" in text and "more" not in text
    assert "1 running" in totals(list(rows.values())) and "end within 5 s" in text
    owner.release()
    lost.release()


def test_an_experiment_shows_runs_that_have_no_folder_yet_and_blocked_ones(store):
    first = toy_run(0)
    after, last = toy_run(1, mu=0.5, frozen=first.id), toy_run(2)
    folder_of(store, first).write_error("diverged", "nan")
    folder_of(store, toy_run(9)).write_result({})
    rows = {summary.id: summary for summary in status(store, [after, last, first])}
    assert len(rows) == 3, "the runs of other experiments stay out"
    assert rows[last.id].state is State.NEW and rows[last.id].total == 20
    assert rows[after.id].state is State.BLOCKED and first.id in rows[after.id].reason


def test_the_state_follows_the_folder(store):
    run = toy_run(0)
    folder = folder_of(store, run)
    assert status(store)[0].state is State.NEW
    folder.write_result({"fid": 1.0})
    assert status(store)[0].fid == 1.0
    (folder.path / "result.json").write_bytes(b'{"fid"')
    assert status(store)[0].state is not State.DONE, "a damaged result is none"


def test_damaged_folders_are_named_and_stop_nothing(store):
    good, bad = toy_run(0), toy_run(1)
    folder_of(store, good).write_result({"fid": 3.0})
    (folder_of(store, bad).path / "config.json").write_bytes(b"{")
    (store.runs / "stray").mkdir()
    rows = {summary.id: summary for summary in status(store)}
    assert rows[good.id].fid == 3.0 and "damaged file" in rows[bad.id].reason and "config.json" in rows["stray"].reason
    assert "damaged file" in table(list(rows.values())).plain


def test_no_runs_is_a_sentence(store):
    assert table(status(store)).plain == "no runs yet"


def test_watch_ends_when_all_is_settled(store):
    folder_of(store, toy_run(0)).write_result({"fid": 3.0})
    console = Console(file=io.StringIO(), width=150)
    watch(store, None, console)
    assert "1 done" in console.file.getvalue()


def test_a_thousand_folders_in_a_second(store):
    """Measured in CPU seconds of this process, since other processes share the clock's time."""
    base = toy_run(0)
    for seed in range(1000):
        run = base.model_copy(update={"seed": seed})
        path = store.runs / run.id
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(run.to_dict()))
        if seed % 10:
            (path / "result.json").write_text(json.dumps({"fid": 1.0, "rate": 2.0}))
        else:
            (path / "lock").mkdir()
            (path / "lock" / "000001").write_text("{}")
            (path / "heartbeat.json").write_text(json.dumps({"step": 3, "total": 20}))
    began = time.process_time()
    rows = status(store)
    text = table(rows)
    console = Console(file=io.StringIO(), width=200)
    console.print(text, soft_wrap=True)
    assert time.process_time() - began < 1.0
    assert len(rows) == 1000 and sum(summary.state is State.DONE for summary in rows) == 900
    assert len(console.file.getvalue().splitlines()) > 1000 and "100 running" in text.plain


def test_a_reader_without_write_access_still_gets_the_table(store, monkeypatch):
    folder_of(store, toy_run(0)).write_result({"fid": 3.0})

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("harness.store.lease.Path.touch", refuse)
    assert status(store)[0].fid == 3.0
