"""The SLURM launcher on a real SLURM: arrays, faults of every kind, dependencies, DDP. Most runs are stand-ins (fake_job.py)."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console
from slurm_cluster import SlurmCluster, require_slurm
from sweep_support import final_hash, toy_run, wait_for

from harness import checkpoint
from harness.config import Evaluation, Network
from harness.errors import HarnessError
from harness.store import RunFolder, State, Store
from harness.sweep import slurm as launcher
from harness.sweep import slurm_queue
from harness.sweep.launch import Options, Outcome, launch
from harness.sweep.plan import Action, make_plan
from harness.sweep.slurm_queue import liveness

pytest_plugins = ["slurm_cluster"]
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        not os.environ.get("HARNESS_TEST_SLURM_LAUNCHER"), reason="three minutes of real faults; HARNESS_TEST_SLURM_LAUNCHER=1 runs them"
    ),
]
ROOT = Path(__file__).parents[1]
ENTRY = "fake_job:main"
PATIENCE = 120


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path) -> None:
    """A launcher that looks often; jobs find the tests' modules and their behaviour."""
    for name, seconds in (("LOOK_EVERY", 0.2), ("ASK_EVERY", 1.0), ("GRACE", 1.0)):
        monkeypatch.setattr(launcher, name, seconds)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setenv("FAKE_JOBS", str(tmp_path / "jobs.json"))
    monkeypatch.delenv("HARNESS_SITE", raising=False)
    behave(tmp_path, {})


def behave(tmp_path: Path, behaviour: dict) -> None:
    (tmp_path / "jobs.json").write_text(json.dumps(behaviour))


def site(tmp_path: Path, **values) -> str:
    path = tmp_path / f"site-{len(list(tmp_path.glob('site-*')))}.toml"
    path.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in {"time": 5, **values}.items()))
    return str(path)


class Sweep:
    """A launcher at work in a thread, and what it has printed."""

    def __init__(self, store: Store, runs, site: str, policy: str = "default", entry: str = ENTRY, **options) -> None:
        self.file = io.StringIO()
        plan = make_plan(runs, store, policy, alive=liveness(store))
        chosen = Options("slurm", entry=entry, site=site, **options)
        pool = ThreadPoolExecutor(1)
        self.future: Future[Outcome] = pool.submit(launch, plan, store, chosen, Console(file=self.file, width=250))
        pool.shutdown(wait=False)

    @property
    def text(self) -> str:
        return self.file.getvalue()

    def outcome(self) -> Outcome:
        return self.future.result(PATIENCE)


def start_launcher(store: Store, seeds: int, steps: int, site: str, before: str = "") -> subprocess.Popen:
    """A launcher in a process of its own; `before`: code that spoils it."""
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from rich.console import Console
from sweep_support import toy_run
from harness.store import Store
from harness.sweep import slurm, slurm_submit
from harness.sweep.launch import Options, launch
from harness.sweep.plan import make_plan
slurm.LOOK_EVERY = 0.2
{before}
store = Store({str(store.root)!r})
plan = make_plan([toy_run(seed, steps={steps}) for seed in range({seeds})], store)
sys.exit(launch(plan, store, Options("slurm", entry={ENTRY!r}, site={site!r}), Console(width=250)).exit_code)
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def step_of(folder: RunFolder) -> int:
    return (folder.read_heartbeat() or {}).get("step", 0)


def job_of(folder: RunFolder) -> str:
    return folder.submission()["job_id"]


def begins(folder: RunFolder) -> list[int]:
    return [attempt["step"] for attempt in folder.attempts()]


def test_an_array_trains_the_same_as_the_local_pool(slurm_accounting: SlurmCluster, tmp_path: Path) -> None:
    """The command line, the real job, with accounting: Table 1 at a tiny size, here and on SLURM."""
    settings = ["train.steps=60", "train.batch=16", "network.width=16", "evaluation.every=30", "evaluation.samples=64"]
    sets = [part for setting in settings for part in ("--set", setting)]
    where = site(tmp_path, account=slurm_accounting.account, partition="main")

    def harness(executor: str, command: str = "sweep") -> str:
        extra = ["--executor", executor, "--site", where] if command == "sweep" else []
        call = [sys.executable, "-m", "harness", command, "table1", "--scale", "toy", "--seeds", "1", "--results", str(tmp_path / executor)]
        done = subprocess.run([*call, *sets, *extra], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(harness, ("slurm", "local")))
    assert "submitted 3 runs as jobs" in texts[0] and "all 3 runs are done" in texts[0]
    there, here = Store(tmp_path / "slurm").folders(), Store(tmp_path / "local").folders()
    assert [folder.id for folder in there] == [folder.id for folder in here] and len(there) == 3
    for one, other in zip(there, here, strict=True):
        states = [checkpoint.load_newest(folder.path / "checkpoints", folder.id) for folder in (one, other)]
        assert all((states[0]["ema"][key] == value).all() for key, value in states[1]["ema"].items())
        fids = [[record["value"] for record in folder.records() if record["metric"] == "w2"] for folder in (one, other)]
        assert fids[0] == fids[1]
        assert one.attempts()[0]["job_id"] and len(one.attempts()) == 1
    assert "nothing to do: all 3 runs are done" in harness("slurm")
    assert "3 done" in harness("slurm", "status")


def test_runs_survive_whatever_happens_to_their_jobs(slurm: SlurmCluster, tmp_path: Path) -> None:
    """One fault a run, side by side; every run ends as an undisturbed one, except the cancelled, which ends so at the second call."""
    names = ("none", "requeue", "signal", "time limit", "daemons killed", "node lost", "cancelled", "process killed")
    steps = {"daemons killed": 190, "time limit": 1000}
    runs = {name: toy_run(seed, steps=steps.get(name, 150)) for seed, name in enumerate(names)}
    behave(tmp_path, {str(run.seed): {"sleep": 0.08} for run in runs.values()})
    store = Store(tmp_path / "results")
    folders = {name: store.folder(run.id) for name, run in runs.items()}
    sweep = Sweep(store, runs.values(), site(tmp_path, cpus=1))
    wait_for(lambda: sweep.future.done() or all(step_of(folder) > 3 for folder in folders.values()), PATIENCE)
    assert not sweep.future.done(), sweep.text
    jobs = {name: job_of(folder) for name, folder in folders.items()}
    assert len({job.partition("_")[0] for job in jobs.values()}) == 1, "one array"
    slurm.expire(jobs["time limit"], 42)  # SLURM warns at its next look, 0 to 30 s from now
    slurm.run("scontrol", "requeue", jobs["requeue"])
    slurm.run("scancel", "--signal=USR2", jobs["signal"])
    slurm.run("scancel", jobs["cancelled"])
    os.kill(folders["process killed"].attempts()[0]["pid"], signal.SIGKILL)
    slurm.kill_step(jobs["daemons killed"])
    slurm.kill_step(jobs["node lost"])
    os.kill(folders["node lost"].attempts()[0]["pid"], signal.SIGKILL)
    wait_for(lambda: step_of(folders["daemons killed"]) > 150, PATIENCE)  # SLURM misses a job 11 s after its start, not earlier
    slurm.register_node()
    behave(tmp_path, {})  # what starts from now on is quick; "time limit" goes on slowly until SLURM looks at limits, every 30 s
    outcome = sweep.outcome()
    cancelled = outcome.ends.pop(runs["cancelled"].id)
    assert cancelled[0] is State.STOPPED and "was cancelled at step" in cancelled[1]
    assert {state for state, _ in outcome.ends.values()} == {State.DONE}, sweep.text
    assert "submitted again (1 of 3 without progress)" in sweep.text  # the killed process, whose job SLURM counts as failed
    again = Sweep(store, runs.values(), site(tmp_path))
    assert again.outcome().exit_code == 0, again.text
    starts = {name: begins(folder) for name, folder in folders.items()}
    assert {name: len(found) for name, found in starts.items()} == {**dict.fromkeys(names, 2), "none": 1, "daemons killed": 1}
    assert all(found == [0] or found[1] > 3 for found in starts.values()), starts
    for name, run in runs.items():
        assert folders[name].result()["hash"] == final_hash(run.seed, run.train.steps), name
        assert len(folders[name].records()) == 1, name
    assert "requeued as job" in folders["signal"].log.read_text()


def test_a_run_longer_than_its_job_goes_on_in_the_next_and_one_without_progress_is_given_up(slurm: SlurmCluster, tmp_path: Path) -> None:
    long, stuck = toy_run(0, steps=60), toy_run(1)
    behave(tmp_path, {"0": {"sleep": 0.1}, "1": {"stuck": True}})
    store = Store(tmp_path / "results")
    sweep = Sweep(store, [long, stuck], site(tmp_path, time=1, margin=56, signal=5), restarts=2)
    ends = sweep.outcome().ends
    assert ends[long.id] == (State.DONE, ""), sweep.text
    assert ends[stuck.id][0] is State.FAILED and "time: 2 starts in a row ended without a step saved" in ends[stuck.id][1]
    assert store.folder(long.id).result()["hash"] == final_hash(0, 60)
    assert len(begins(store.folder(long.id))) >= 2 and begins(store.folder(stuck.id)) == [0, 0]
    assert "submitted again" not in sweep.text, "it requeued itself"


def test_needs_go_first_and_a_failed_need_blocks_its_dependants(slurm: SlurmCluster, tmp_path: Path) -> None:
    good, bad = toy_run(0), toy_run(1)
    after_good, after_bad = toy_run(2, mu=0.5, frozen=good.id), toy_run(3, mu=0.5, frozen=bad.id)
    last = toy_run(4, mu=0.5, frozen=after_bad.id)
    behave(tmp_path, {"0": {"sleep": 0.05, "again_at": [10]}, "1": {"fail": "diverged"}})
    store = Store(tmp_path / "results")
    sweep = Sweep(store, [last, after_bad, after_good, good, bad], site(tmp_path))
    wait_for(lambda: "submitted 1 run" in sweep.text or sweep.future.done(), PATIENCE)
    outcome = sweep.outcome()
    blocked = {after_bad.id: State.BLOCKED, last.id: State.BLOCKED}
    ends = {name: state for name, (state, _) in outcome.ends.items()}
    assert ends == {good.id: State.DONE, after_good.id: State.DONE, bad.id: State.FAILED, **blocked}, sweep.text
    assert f"needs {bad.id}, which is failed: diverged: loss is nan" in outcome.ends[after_bad.id][1]
    assert sweep.text.count(", after ") == 3, "the dependants were in the queue before their needs had ended"
    assert begins(store.folder(good.id)) == [0, 10], "a need that is requeued keeps its dependants"
    ended = store.folder(good.id).path.joinpath("result.json").stat().st_mtime
    assert store.folder(after_good.id).attempts()[0]["time"] >= ended - 0.1
    assert not store.folder(after_bad.id).attempts() and not slurm_queue.queue()


def test_a_sweep_larger_than_an_array_is_split_and_throttled(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    require_slurm()
    runs = [toy_run(seed) for seed in range(8)]
    behave(tmp_path, {str(seed): {"sleep": 0.03} for seed in range(8)})
    store = Store(tmp_path / "results")
    with SlurmCluster(tmp_path_factory.mktemp("small"), max_array_size=3) as cluster, cluster.active():
        sweep = Sweep(store, runs, site(tmp_path, parallelism=6))
        outcome = sweep.outcome()
    assert outcome.exit_code == 0, sweep.text
    scripts = [path.read_text() for path in sorted(store.root.glob("slurm/*/*submission.sh"))]
    found = sorted(line.partition("=")[2] for text in scripts for line in text.splitlines() if line.startswith("#SBATCH --array"))
    assert found == ["0-1%2", "0-2%2", "0-2%2"]
    assert all(len(store.folder(run.id).attempts()) == 1 for run in runs)


def test_two_processes_train_one_run_and_a_requeue_changes_nothing(slurm: SlurmCluster, tmp_path: Path) -> None:
    """DDP over gloo with the real job. One of two equal runs is requeued in the middle."""
    small = Network(kind="mlp", width=16, dropout=(0.0,))
    run = toy_run(0, mu=0.5, steps=150, checkpoint_every=20, network=small, evaluation=Evaluation(every=50, samples=16))
    stores = [Store(tmp_path / name) for name in ("undisturbed", "requeued")]
    sweeps = [Sweep(store, [run], site(tmp_path, tasks=2), entry="harness.job:main") for store in stores]
    folder = stores[1].folder(run.id)
    wait_for(lambda: sweeps[1].future.done() or checkpoint.steps(folder.path / "checkpoints"), PATIENCE)
    slurm.run("scontrol", "requeue", job_of(folder))
    for sweep, store in zip(sweeps, stores, strict=True):
        assert sweep.outcome().exit_code == 0, sweep.text + store.folder(run.id).log.read_text()
    assert [attempt["processes"] for attempt in folder.attempts()] == [2, 2] and 0 < begins(folder)[1] < 150
    states = [checkpoint.load_newest(store.folder(run.id).path / "checkpoints", run.id) for store in stores]
    assert states[0]["step"] == states[1]["step"] == 150
    assert all((states[0]["ema"][key] == value).all() for key, value in states[1]["ema"].items())
    steps = [record["step"] for record in folder.records() if record["metric"] == "loss"]
    assert len(steps) == len(set(steps)), "one process measured, once"


def test_a_waiting_run_is_not_submitted_again_unless_its_job_is_gone(slurm: SlurmCluster, tmp_path: Path) -> None:
    runs = [toy_run(seed) for seed in range(3)]
    store, where = Store(tmp_path / "results"), site(tmp_path)
    with drained(slurm):
        first = Sweep(store, runs, where, wait=False)
        assert first.outcome().exit_code == 0 and "scancel" in first.text
        before = slurm_queue.queue()
        assert len(before) == 3 and {store.folder(run.id).state() for run in runs} == {State.QUEUED}
        plan = make_plan(runs, store, alive=liveness(store))
        assert {row.action for row in plan.rows} == {Action.WAIT} and "waits as job" in plan.rows[0].reason
        Sweep(store, runs, where, wait=False).outcome()
        assert slurm_queue.queue() == before
        slurm.run("scancel", job_of(store.folder(runs[1].id)))
        wait_for(lambda: len(slurm_queue.queue()) == 2)
        row = make_plan(runs, store, alive=liveness(store)).rows[1]
        assert row.action is Action.START and "is gone" in row.reason
        # A plan that was made by folders alone, as by a launcher that could not ask, finds out later.
        stale = make_plan(runs, store)
        assert {row.action for row in stale.rows} == {Action.WAIT}
        file = io.StringIO()
        launch(stale, store, Options("slurm", entry=ENTRY, site=where, wait=False), Console(file=file, width=250))
        assert f"{runs[1].id}: job {before_id(before, 1)} is gone" in file.getvalue()
        assert len(slurm_queue.queue()) == 3
    last = Sweep(store, runs, where)
    assert last.outcome().exit_code == 0 and "submitted" not in last.text, last.text
    assert all(len(store.folder(run.id).attempts()) == 1 for run in runs)


def before_id(jobs: dict[str, slurm_queue.Job], index: int) -> str:
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
    assert sweep.outcome().exit_code == 0, sweep.text
    assert ("submitted 3 runs" in sweep.text) == (moment == "before sbatch")
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
    assert "its job goes on" in text
    sweep = Sweep(store, [toy_run(seed, steps=60) for seed in range(2)], where)
    assert sweep.outcome().exit_code == 0 and "submitted" not in sweep.text, sweep.text
    assert [begins(folder) for folder in folders] == [[0], [0]]


def test_a_refused_submission_leaves_nothing_behind(slurm_accounting: SlurmCluster, tmp_path: Path) -> None:
    store, run = Store(tmp_path / "results"), toy_run(0)
    sweep = Sweep(store, [run], site(tmp_path, account="nobody"))
    with pytest.raises(HarnessError, match="did not take the jobs") as caught:
        sweep.outcome()
    assert "Invalid account" in caught.value.details["found"]
    assert store.folder(run.id).submission() is None and store.folder(run.id).state() is State.NEW
    good = Sweep(store, [run], site(tmp_path, account=slurm_accounting.account))
    assert good.outcome().exit_code == 0, good.text
    job_id = store.root.joinpath("slurm").glob("*/*_submitted.pkl").__next__().name.partition("_submitted")[0]
    wait_for(lambda: slurm_queue.ask("sacct", "--noheader", "--allocations", "--format=State", f"--jobs={job_id}").strip() == "COMPLETED")
    assert slurm_queue.end_of(job_id) == "COMPLETED"
