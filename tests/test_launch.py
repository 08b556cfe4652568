"""The launchers with real processes, kills and signals; the work itself is a stand-in (fake_job.py) that obeys the contract of a job."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from sweep_support import final_hash, toy_run, wait_for

from harness.errors import HarnessError
from harness.store import machine
from harness.store.gpus import Gpu, Gpus
from harness.store.runs import RunFolder, State, Store
from harness.sweep import local, local_processes
from harness.sweep.launch import LaunchOptions, launch
from harness.sweep.plan import make_plan

ROOT = Path(__file__).parents[1]
ENTRY = "fake_job:main"
COMMAND = (sys.executable, str(ROOT / "tests" / "fake_job.py"))


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def behave(tmp_path, monkeypatch):
    """behave({seed: behaviour}) sets what the fake jobs do."""

    def write(behaviour: dict) -> None:
        (tmp_path / "jobs.json").write_text(json.dumps(behaviour))

    monkeypatch.setenv("FAKE_JOBS", str(tmp_path / "jobs.json"))
    write({})
    return write


def sweep(store: Store, runs, policy="default", **options):
    console = Console(file=io.StringIO(), width=200)
    result = launch(make_plan(runs, store, policy), store, LaunchOptions(**{"executor": "local", "entry": ENTRY, **options}), console)
    return result, console.file.getvalue()


def start_launcher(store: Store, seeds: int, steps: int, workers: int = 2) -> subprocess.Popen:
    """A launcher in a process of its own, in its own process group, as a shell would start it."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from rich.console import Console
from sweep_support import toy_run
from harness.store.runs import Store
from harness.sweep.launch import LaunchOptions, launch
from harness.sweep.plan import make_plan
store = Store({str(store.root)!r})
plan = make_plan([toy_run(seed, steps={steps}) for seed in range({seeds})], store)
sys.exit(launch(plan, store, LaunchOptions(executor="local", workers={workers}, entry={ENTRY!r}), Console()).exit_code)
"""
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True
    )


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_sweep_ends_done_and_the_second_does_nothing(store, behave):
    runs = [toy_run(seed) for seed in range(4)]
    result, text = sweep(store, runs, workers=2)
    assert result.exit_code == 0 and "done: 4 runs" in text
    for run in runs:
        assert store.folder(run.id).result()["hash"] == final_hash(run.seed, 20)
    result, text = sweep(store, runs, workers=2)
    assert result.exit_code == 0 and "nothing to do" in text
    assert all(len(store.folder(run.id).attempts()) == 1 for run in runs), "none was trained twice"


def test_needs_come_first_and_a_failed_need_blocks_its_dependants(store, behave):
    good, bad = toy_run(0), toy_run(1)
    after_good, after_bad = toy_run(2, mu=0.5, frozen=good.id), toy_run(3, mu=0.5, frozen=bad.id)
    last = toy_run(4, mu=0.5, frozen=after_bad.id)
    behave({"1": {"fail": "diverged"}})
    result, text = sweep(store, [last, after_bad, after_good, good, bad], workers=3)
    ends = {name: state for name, (state, _) in result.ends.items()}
    assert result.exit_code == 1
    blocked = {after_bad.id: State.BLOCKED, last.id: State.BLOCKED}
    assert ends == {good.id: State.DONE, after_good.id: State.DONE, bad.id: State.FAILED, **blocked}
    assert f"needs {bad.id}, which is failed: diverged: loss is nan" in text
    ended = store.folder(good.id).path.joinpath("result.json").stat().st_mtime
    assert store.folder(after_good.id).attempts()[0]["time"] >= ended - 0.1
    assert not store.folder(after_bad.id).attempts()


def test_failures_name_reason_and_log(store, behave):
    behave({"0": {"fail": "input"}, "1": {"exit": 1}})
    result, text = sweep(store, [toy_run(0), toy_run(1)])
    assert result.exit_code == 2 and "input: no data set" in text and "ended with exit code 1" in text
    assert str(store.folder(toy_run(0).id).log) in text


def test_a_killed_run_is_started_again_and_ends_the_same(store, behave):
    behave({"0": {"kill_at": [3, 7, 12]}, "1": {"again_at": [5, 10]}})
    runs = [toy_run(0), toy_run(1)]
    result, text = sweep(store, runs)
    assert result.exit_code == 0 and "killed by SIGKILL" in text and "at step 7" in text
    assert [store.folder(run.id).result()["hash"] for run in runs] == [final_hash(0, 20), final_hash(1, 20)]
    assert [attempt["step"] for attempt in store.folder(runs[0].id).attempts()] == [0, 3, 7, 12]
    assert [attempt["step"] for attempt in store.folder(runs[1].id).attempts()] == [0, 5, 10]


def test_a_run_that_crashes_without_progress_is_given_up(store, behave):
    behave({"0": {"kill_before": 5}})
    run = toy_run(0)
    result, text = sweep(store, [run], restarts=2)
    assert result.exit_code == 1
    assert re.search(r"killed by SIGKILL \(out of memory\?\) at step [34], 3 times in a row without progress", text)  # beats lag a step
    assert [attempt["step"] for attempt in store.folder(run.id).attempts()] == [0, 4, 4]


def test_a_busy_run_is_watched_until_the_other_is_done(store, behave):
    run = toy_run(0, steps=150)
    behave({"0": {"sleep": 0.01}})
    folder = RunFolder.create(store.root, run.id, run.to_dict())
    other = subprocess.Popen([*COMMAND, str(folder.path)], cwd=ROOT)
    wait_for(lambda: folder.state() is State.RUNNING)
    result, _ = sweep(store, [run])
    assert other.wait(10) == 0 and result.exit_code == 0 and len(folder.attempts()) == 1


def test_a_busy_run_whose_owner_dies_is_taken_over(store, behave):
    run = toy_run(0, steps=400)
    behave({"0": {"sleep": 0.005}})
    folder = RunFolder.create(store.root, run.id, run.to_dict())
    other = subprocess.Popen([*COMMAND, str(folder.path)], cwd=ROOT)
    wait_for(lambda: (folder.read_heartbeat() or {}).get("step", 0) > 20)
    plan = make_plan([run], store)
    other.kill()
    console = Console(file=io.StringIO(), width=200)
    result = launch(plan, store, LaunchOptions(executor="local", entry=ENTRY), console)
    other.wait()
    assert result.exit_code == 0 and "taken over" in console.file.getvalue()
    assert folder.result()["hash"] == final_hash(0, 400) and len(folder.attempts()) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_saves_and_can_be_continued(store, behave, number):
    behave({str(seed): {"sleep": 0.02} for seed in range(3)})
    launcher = start_launcher(store, seeds=3, steps=200)
    folders = [store.folder(toy_run(seed, steps=200).id) for seed in range(3)]
    wait_for(lambda: all((folder.read_heartbeat() or {}).get("step", 0) > 2 for folder in folders[:2]))
    launcher.send_signal(number)
    output, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 128 + number
    assert "2 runs" in output and "same command" in output
    assert [folder.state() for folder in folders] == [State.STOPPED, State.STOPPED, State.NEW]
    behave({})
    result, _ = sweep(store, [toy_run(seed, steps=200) for seed in range(3)])
    assert result.exit_code == 0
    assert [folder.result()["hash"] for folder in folders] == [final_hash(seed, 200) for seed in range(3)]
    assert folders[0].attempts()[1]["step"] > 2


def test_no_orphan_survives_a_killed_launcher(store, behave):
    behave({str(seed): {"sleep": 0.05} for seed in range(2)})
    launcher = start_launcher(store, seeds=2, steps=2000)
    folders = [store.folder(toy_run(seed, steps=2000).id) for seed in range(2)]
    wait_for(lambda: all((folder.read_heartbeat() or {}).get("step", 0) > 2 for folder in folders))
    pids = [folder.attempts()[0]["pid"] for folder in folders]
    launcher.kill()
    launcher.wait()
    wait_for(lambda: not any(alive(pid) for pid in pids), 10)
    assert [folder.state() for folder in folders] == [State.STOPPED] * 2, "they saved and gave their folders back"


def test_force_starts_again_and_keeps_the_old_results(store, behave):
    run = toy_run(0)
    sweep(store, [run])
    folder = store.folder(run.id)
    folder.append_records([{"mark": 1}])
    result, _ = sweep(store, [run], policy="force")
    assert result.exit_code == 0 and (folder.path / "old-1" / "result.json").exists()
    assert "mark" in (folder.path / "old-1" / "records.jsonl").read_text() and len(folder.records()) == 1
    assert folder.attempts()[0]["step"] == 0
    sweep(store, [run], policy="force")
    assert (folder.path / "old-2" / "result.json").exists()


def test_inline_runs_in_this_process_and_blocks_after_a_failure(store, behave, monkeypatch):
    behave({"1": {"fail": "diverged"}})
    good, bad = toy_run(0), toy_run(1)
    after = toy_run(2, mu=0.5, frozen=bad.id)
    plan = make_plan([good, bad, after], store)
    result = launch(plan, store, LaunchOptions(executor="inline", entry=ENTRY), Console(file=io.StringIO()))
    assert [result.ends[run.id][0] for run in (good, bad, after)] == [State.DONE, State.FAILED, State.BLOCKED]
    assert store.folder(good.id).attempts()[0]["pid"] == os.getpid()


@pytest.mark.parametrize("executor", ["inline", "local"])
@pytest.mark.parametrize("behaviour, code", [({"fail": "input"}, 2), ({"exit": 2}, 2), ({"fail": "crash"}, 1), ({"exit": 1}, 1)])
def test_a_job_that_ends_for_bad_input_makes_the_sweep_exit_with_2(store, behave, executor, behaviour, code):
    """Also one that could not write its error.json, as on a full disk."""
    behave({"1": behaviour})
    good, bad = toy_run(0), toy_run(1)
    after = toy_run(2, mu=0.5, frozen=bad.id)
    options = LaunchOptions(executor=executor, entry=ENTRY, device="cpu")
    result = launch(make_plan([good, bad, after], store), store, options, Console(file=io.StringIO()))
    assert result.exit_code == code and result.ends[good.id][0] is State.DONE and result.ends[after.id][0] is State.BLOCKED


def test_threads_and_gpus_are_shared_out(store, behave, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 8)
    monkeypatch.setattr(local, "cores", lambda: 8)
    runs = [toy_run(seed) for seed in range(4)]
    plan = make_plan(runs, store)
    assert local.layout(plan, LaunchOptions(device="cpu")) == local.Layout("cpu", (), 4, 2)
    assert local.layout(plan, LaunchOptions(device="cpu", workers=2)) == local.Layout("cpu", (), 2, 4)
    fixed = make_plan([toy_run(seed, train=runs[0].train.model_copy(update={"threads": 3})) for seed in range(4)], store)
    assert local.layout(fixed, LaunchOptions(device="cpu")).workers == 2
    two = Gpus((Gpu("A", 2**30, "9.0", "0"), Gpu("A", 2**30, "9.0", "1")))
    for module in (machine, local):
        monkeypatch.setattr(module, "find_gpus", lambda: two)
    assert local.layout(plan, LaunchOptions()) == local.Layout("cuda", two.devices, 2, 4)
    result, _ = sweep(store, runs)
    attempts = [store.folder(run.id).attempts()[0] for run in runs]
    assert result.exit_code == 0 and {attempt["gpu"] for attempt in attempts} == {"0", "1"}
    assert {attempt["threads"] for attempt in attempts} == {"4"} and {attempt["device"] for attempt in attempts} == {"cuda"}
    monkeypatch.setattr(machine, "find_gpus", Gpus)
    with pytest.raises(HarnessError, match="no GPU"):
        local.layout(plan, LaunchOptions(device="cuda"))
    with pytest.raises(HarnessError, match="--workers"):
        local.layout(plan, LaunchOptions(workers=0))


@pytest.mark.parametrize("executor", ["local", "inline"])
def test_each_run_that_becomes_done_is_reported(store, behave, executor):
    behave({"1": {"fail": "diverged"}})
    runs, done = [toy_run(seed) for seed in range(3)], []
    result, _ = sweep(store, runs, executor=executor, on_done=done.append)
    assert result.exit_code == 1 and sorted(done) == sorted(run.id for run in (runs[0], runs[2]))
    sweep(store, runs, executor=executor, on_done=done.append)
    assert len(done) == 2, "not those that were done before"


def test_what_on_done_raises_is_reported_once_and_stops_nothing(store, behave):
    calls = []

    def fail(run_id: str) -> None:
        calls.append(run_id)
        raise RuntimeError("no table yet")

    result, text = sweep(store, [toy_run(seed) for seed in range(3)], workers=1, on_done=fail)
    assert result.exit_code == 0 and text.count("no table yet") == 1 and len(calls) == 3


def test_a_plain_progress_line_shows_rate_and_time_left(store, behave, monkeypatch):
    monkeypatch.setattr("harness.sweep.progress.PLAIN_EVERY", 0.3)
    behave({"0": {"sleep": 0.02}})
    _, text = sweep(store, [toy_run(0, steps=60)])
    lines = [line for line in text.splitlines() if "at work" in line and "steps/s" in line]
    assert lines and "0/1 done" in lines[0] and "left" in lines[0] and "loss" in lines[0] and "W2" in lines[0]


def test_the_terminal_shows_bars(store, behave):
    behave({"0": {"sleep": 0.02}})
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    launch(make_plan([toy_run(0, steps=80)], store), store, LaunchOptions(executor="local", entry=ENTRY), console)
    assert "━" in console.file.getvalue() and "/80" in console.file.getvalue()


def test_the_launcher_costs_less_than_50_ms_a_run(store, monkeypatch):
    """Compared with the bare start of the same processes from the same server, one after the other.

    The smaller of two values counts: the CPU seconds of this process, and its wall time minus that of the bare starts. Other processes may
    slow the second, not both.
    """
    runs = [toy_run(seed) for seed in range(20)]
    for run in runs:
        RunFolder.create(store.root, run.id, run.to_dict())
    sweep(store, [toy_run(99)], entry="fake_job:instant")  # the server is up
    began = time.monotonic()
    for run in runs:
        path = store.folder(run.id).path
        local_processes.start("fake_job:instant", [str(path)], path / "log.txt", ROOT, {"OMP_NUM_THREADS": "1"}).join()
    bare = time.monotonic() - began
    for run in runs:
        (store.folder(run.id).path / "result.json").unlink()
    plan = make_plan(runs, store)
    began, cpu = time.monotonic(), time.process_time()
    result = launch(plan, store, LaunchOptions(executor="local", workers=1, entry="fake_job:instant"), Console(file=io.StringIO()))
    overhead = min(time.monotonic() - began - bare, time.process_time() - cpu) / len(runs)
    assert result.exit_code == 0 and overhead < 0.05, f"{1000 * overhead:.0f} ms a run"


def test_children_fork_from_one_server_that_can_be_lost(store, behave):
    """The server is killed in the middle: its children continue, and the launcher watches them to their end."""
    behave({"0": {"sleep": 0.02}, "1": {"sleep": 0.02}})
    launcher = start_launcher(store, seeds=2, steps=100)
    folders = [store.folder(toy_run(seed, steps=100).id) for seed in range(2)]
    wait_for(lambda: all((folder.read_heartbeat() or {}).get("step", 0) > 2 for folder in folders))
    parents = {int(Path(f"/proc/{folder.attempts()[0]['pid']}/stat").read_text().rpartition(")")[2].split()[1]) for folder in folders}
    assert len(parents) == 1 and launcher.pid not in parents
    os.kill(parents.pop(), signal.SIGKILL)
    output, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, output
    assert [folder.result()["hash"] for folder in folders] == [final_hash(seed, 100) for seed in range(2)]
    assert [len(folder.attempts()) for folder in folders] == [1, 1]


def test_importing_the_job_leaves_cuda_alone():
    """A process that has only counted its GPUs can no longer be forked into processes that use them."""
    code = """
import torch
def touched(*_, **__):
    raise SystemExit("CUDA was touched")
torch.cuda.is_available = torch.cuda.device_count = torch.cuda.init = torch.cuda._lazy_init = touched
import harness.training.job
raise SystemExit(torch.cuda.is_initialized())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_kills_from_outside_at_any_moment_change_nothing(store, behave):
    """Kills of workers and of the launcher and torn files: every run ends done, with the hash of an undisturbed one. Real runs, and more
    faults, are in test_faults.py."""
    seeds, steps, rng = 10, 60, random.Random(0)
    behave({str(seed): {"sleep": 0.02} for seed in range(seeds)})
    folders = [store.folder(toy_run(seed, steps=steps).id) for seed in range(seeds)]
    launcher, faults = start_launcher(store, seeds, steps), {"worker": 0, "launcher": 0, "file": 0}
    while sum(faults.values()) < 20 and launcher.poll() is None:
        time.sleep(0.12)
        kind = ("worker", "file", "worker", "file", "launcher")[sum(faults.values()) % 5]
        running = [folder for folder in folders if folder.state() is State.RUNNING and folder.attempts()]
        if kind == "launcher":
            launcher.kill()
            launcher.communicate()
            launcher = start_launcher(store, seeds, steps)
        elif running:
            folder = rng.choice(running)
            with contextlib.suppress(ProcessLookupError):
                os.kill(folder.attempts()[-1]["pid"], signal.SIGKILL)
            if kind == "file":
                path = folder.path / rng.choice(["attempts.jsonl", "heartbeat.json", "state.json", "config.json"])
                with contextlib.suppress(FileNotFoundError):
                    path.write_bytes(path.read_bytes()[:-7])
        else:
            continue
        faults[kind] += 1
    output, _ = launcher.communicate(timeout=200)
    last, text = sweep(store, [toy_run(seed, steps=steps) for seed in range(seeds)])
    assert last.exit_code == 0, output + text
    assert sum(faults.values()) == 20 and min(faults.values()) >= 4, faults
    assert [folder.result()["hash"] for folder in folders] == [final_hash(seed, steps) for seed in range(seeds)]
    assert all(len(folder.records()) == 1 for folder in folders), "none was finished twice"
