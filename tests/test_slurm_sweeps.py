"""Sweeps on a real SLURM: the same results as on this machine, several processes per run, launchers that are killed, stopped, refused."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console
from slurm_cluster import SlurmCluster, free_ports
from slurm_support import ENTRY, PATIENCE, ROOT, Sweep, begins, behave, job_of, site, start_launcher, step_of
from sweep_support import toy_run, wait_for
from train_support import difference

from harness.config.baselines import is_baselines
from harness.config.parts import Evaluation, Network
from harness.errors import HarnessError
from harness.store.runs import RunFolder, State, Store
from harness.sweep import local_processes, slurm_queue
from harness.sweep import slurm as launcher
from harness.sweep.launch import LaunchOptions, launch
from harness.sweep.plan import Action, make_plan
from harness.sweep.slurm_queue import liveness
from harness.training import checkpoints

pytest_plugins = ["slurm_cluster", "slurm_support"]
pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600), pytest.mark.usefixtures("quick_launcher")]


def test_an_array_trains_the_same_as_the_local_pool(slurm_accounting: SlurmCluster, tmp_path: Path) -> None:
    """The command line, the real jobs, with accounting: Table 1 at a tiny size and its baselines, here and on SLURM."""
    settings = ["train.steps=60", "train.batch=16", "network.width=16", "evaluation.every=30", "evaluation.samples=64"]
    sets = [part for setting in settings for part in ("--set", setting)]
    where = site(tmp_path, account=slurm_accounting.account, partition="main")

    def harness(executor: str, command: str = "sweep") -> str:
        extra = ["--executor", executor] if command == "sweep" else []
        extra += ["--site", where] if extra and executor == "slurm" else []
        call = [sys.executable, "-m", "harness", command, "table1", "--scale", "toy", "--seeds", "1", "--results", str(tmp_path / executor)]
        done = subprocess.run([*call, *sets, *extra], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(harness, ("slurm", "local")))
    there, here = Store(tmp_path / "slurm").folders(), Store(tmp_path / "local").folders()
    assert [folder.id for folder in there] == [folder.id for folder in here] and len(there) == 4
    assert "submitted" in texts[0] and [text.splitlines()[-1] for text in texts] == ["done: 3 runs and 1 baselines job"] * 2
    for pair in zip(there, here, strict=True):
        if is_baselines(pair[0].config()):
            contents = [json.loads((folder.path / "baselines.json").read_text()) for folder in pair]
            assert contents[0]["rows"] == contents[1]["rows"] and contents[0]["rows"]
        else:
            assert difference(*(checkpoints.load_newest(folder.path / "checkpoints", folder.id) for folder in pair)) == []
            values = [[(row["step"], row["metric"], row["value"]) for row in folder.records()] for folder in pair]
            assert values[0] == values[1] and values[0]
        (attempt,) = pair[0].attempts()
        assert attempt["job_id"] and attempt["executor"] == "slurm", "on a node, never in the calling process"
    assert "nothing to do" in harness("slurm")
    assert "4 done" in harness("slurm", "status")


def test_two_processes_train_one_run_and_a_requeue_changes_nothing(slurm: SlurmCluster, tmp_path: Path) -> None:
    """DDP over gloo with the real job, requeued in the middle, compared with two undisturbed processes of this machine."""
    small = Network(kind="mlp", width=16, dropout=(0.0,))
    run = toy_run(0, mu=0.5, steps=150, checkpoint_every=20, network=small, evaluation=Evaluation(every=50, samples=16))
    stores = [Store(tmp_path / name) for name in ("requeued", "undisturbed")]
    folder = stores[0].folder(run.id)
    sweep = Sweep(stores[0], [run], site(tmp_path, tasks=2), entry="harness.training.job:main")
    wait_for(lambda: sweep.future.done() or folder.stored_steps(), PATIENCE)
    slurm.run("scontrol", "requeue", job_of(folder))
    train_here(RunFolder.create(stores[1].root, run.id, run.to_dict()))
    assert sweep.result().exit_code == 0, sweep.text + folder.log.read_text()
    assert [attempt["processes"] for attempt in folder.attempts()] == [2, 2] and 0 < begins(folder)[1] < 150
    states = [checkpoints.load_newest(store.folder(run.id).path / "checkpoints", run.id) for store in stores]
    assert states[0]["step"] == 150 and difference(*states) == []
    values = [[(row["step"], row["metric"], row["value"]) for row in store.folder(run.id).records()] for store in stores]
    assert values[0] == values[1] and values[0], "one process measured, once"


def train_here(folder: RunFolder) -> None:
    """Two processes of this machine train the run to its end."""
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0])}
    local_processes.open_server("harness.training.job:main", 1)
    processes = [
        local_processes.start(
            "harness.training.job:main",
            [str(folder.path), "--device", "cpu"],
            folder.log,
            ROOT,
            {
                **shared,
                **dict.fromkeys(local_processes.THREADS, "1"),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "GLOO_SOCKET_IFNAME": "lo",
            },
        )
        for rank in range(2)
    ]
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0], folder.log.read_text()


def test_a_waiting_run_is_not_submitted_again_unless_its_job_is_gone(slurm: SlurmCluster, tmp_path: Path) -> None:
    runs = [toy_run(seed) for seed in range(3)]
    store, where = Store(tmp_path / "results"), site(tmp_path)
    with drained(slurm):
        first = Sweep(store, runs, where, wait=False)
        assert first.result().exit_code == 0 and "scancel" in first.text
        before = slurm_queue.queue()
        assert len(before) == 3 and {store.folder(run.id).state() for run in runs} == {State.QUEUED}
        plan = make_plan(runs, store, alive=liveness(store))
        assert {row.action for row in plan.rows} == {Action.WAIT} and "queued as job" in plan.rows[0].reason
        Sweep(store, runs, where, wait=False).result()
        assert slurm_queue.queue() == before
        slurm.run("scancel", job_of(store.folder(runs[1].id)))
        wait_for(lambda: len(slurm_queue.queue()) == 2)
        row = make_plan(runs, store, alive=liveness(store)).rows[1]
        assert row.action is Action.START and "is gone" in row.reason
        # A plan that was made by folders alone, as by a launcher that could not ask, finds out later.
        stale = make_plan(runs, store)
        assert {row.action for row in stale.rows} == {Action.WAIT}
        file = io.StringIO()
        launch(stale, store, LaunchOptions("slurm", entry=ENTRY, site=where, wait=False), Console(file=file, width=250))
        assert f"{runs[1].id}: job {before_id(before, 1)} is gone" in file.getvalue()
        assert len(slurm_queue.queue()) == 3
    last = Sweep(store, runs, where)
    assert last.result().exit_code == 0 and "submitted" not in last.text, last.text
    assert all(len(store.folder(run.id).attempts()) == 1 for run in runs)


def before_id(jobs: dict[str, slurm_queue.SlurmJob], index: int) -> str:
    return next(job.id for token, job in jobs.items() if token.endswith(f"-{index}"))


@contextlib.contextmanager
def drained(cluster: SlurmCluster) -> Iterator[None]:
    """No job starts inside."""
    cluster.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        yield
    finally:
        cluster.run("scontrol", "update", "PartitionName=main", "State=UP")


@pytest.mark.parametrize("moment", ["before sbatch", "after sbatch"])
def test_a_launcher_killed_while_it_submits_starts_nothing_twice(slurm: SlurmCluster, tmp_path: Path, moment: str) -> None:
    spoil = {
        "before sbatch": "slurm_submit.submitit.SlurmExecutor.submit_array = lambda *_: os.kill(os.getpid(), signal.SIGKILL)",
        "after sbatch": """
keep = Store.mark_submitted
def mark(self, run_id, token, executor, job_id=None):
    os.kill(os.getpid(), signal.SIGKILL) if job_id else keep(self, run_id, token, executor)
Store.mark_submitted = mark""",
    }[moment]
    runs = [toy_run(seed) for seed in range(3)]
    store, where = Store(tmp_path / "results"), site(tmp_path)
    with drained(slurm):
        killed = start_launcher(store, 3, 20, where, spoil)
        assert killed.wait(PATIENCE) == -signal.SIGKILL, killed.stdout.read()
        assert len(slurm_queue.queue()) == (3 if moment == "after sbatch" else 0)
        assert {store.folder(run.id).submission()["job_id"] for run in runs} == {None}
    sweep = Sweep(store, runs, where)
    assert sweep.result().exit_code == 0, sweep.text
    assert ("submitted 3 runs" in sweep.text) == (moment == "before sbatch")
    assert all(len(store.folder(run.id).attempts()) == 1 for run in runs)


def test_a_run_that_another_launcher_submits_first_is_left_to_it(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other launcher claims a run between the plan and the submission, holds it for much longer than GRACE, and gives it up."""
    runs = [toy_run(seed) for seed in range(2)]
    store, submit = Store(tmp_path / "results"), launcher.submit
    claimed: list[float] = []

    def submit_second(*arguments):
        if not claimed:
            store.mark_submitted(runs[0].id, "other-0", "slurm")
            claimed.append(time.monotonic())
        return submit(*arguments)

    monkeypatch.setattr(launcher, "submit", submit_second)
    sweep = Sweep(store, runs, site(tmp_path))
    wait_for(lambda: store.folder(runs[1].id).state() is State.DONE, PATIENCE)
    wait_for(lambda: time.monotonic() - claimed[0] > 8 * launcher.GRACE, PATIENCE)
    assert store.folder(runs[0].id).submission()["token"] == "other-0" and not store.folder(runs[0].id).attempts()
    assert not sweep.future.done() and "starting again" not in sweep.text, sweep.text
    store.clear_submission(runs[0].id, "other-0")
    assert sweep.result().exit_code == 0, sweep.text
    assert all(len(store.folder(run.id).attempts()) == 1 for run in runs)


def test_ctrl_c_leaves_the_jobs_at_work_and_says_how_to_cancel_them(slurm: SlurmCluster, tmp_path: Path) -> None:
    behave(tmp_path, {str(seed): {"sleep": 0.1} for seed in range(2)})
    store, where = Store(tmp_path / "results"), site(tmp_path)
    folders = [store.folder(toy_run(seed, steps=60).id) for seed in range(2)]
    process = start_launcher(store, 2, 60, where)
    wait_for(lambda: all(step_of(folder) > 1 for folder in folders), PATIENCE)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and f"to cancel them: scancel {job_of(folders[0]).partition('_')[0]}" in text, text
    assert "continues" in text
    sweep = Sweep(store, [toy_run(seed, steps=60) for seed in range(2)], where)
    assert sweep.result().exit_code == 0 and "submitted" not in sweep.text, sweep.text
    assert [begins(folder) for folder in folders] == [[0], [0]]


def test_a_refused_submission_leaves_nothing_behind(slurm_accounting: SlurmCluster, tmp_path: Path) -> None:
    store, run = Store(tmp_path / "results"), toy_run(0)
    sweep = Sweep(store, [run], site(tmp_path, account="nobody"))
    with pytest.raises(HarnessError, match="refused") as caught:
        sweep.result()
    assert "Invalid account" in caught.value.details["found"]
    assert store.folder(run.id).submission() is None and store.folder(run.id).state() is State.NEW
    good = Sweep(store, [run], site(tmp_path, account=slurm_accounting.account))
    assert good.result().exit_code == 0, good.text
    job_id = store.root.joinpath("slurm").glob("*/*_submitted.pkl").__next__().name.partition("_submitted")[0]
    wait_for(lambda: slurm_queue.ask("sacct", "--noheader", "--allocations", "--format=State", f"--jobs={job_id}").strip() == "COMPLETED")
    assert slurm_queue.end_of(job_id) == "COMPLETED"
