"""The SLURM launcher on a real SLURM: faults of every kind, time limits, dependencies, limits on arrays. The runs are stand-ins
(fake_job.py); test_slurm_sweeps.py has real ones."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, require_slurm, short_folder
from slurm_support import PATIENCE, Sweep, begins, behave, job_of, site, step_of
from sweep_support import final_hash, toy_run, wait_for

from harness.store.runs import State, Store
from harness.sweep import slurm_queue

pytest_plugins = ["slurm_cluster", "slurm_support"]
pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600), pytest.mark.usefixtures("quick_launcher")]


def test_runs_survive_every_fault_of_their_jobs(slurm: SlurmCluster, tmp_path: Path) -> None:
    """One fault per run, all at once. Every run ends as an undisturbed one; the cancelled one does so at the second call."""
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
    slurm.expire(jobs["time limit"], 42)  # SLURM warns at its next check, 0 to 30 s from now
    slurm.run("scontrol", "requeue", jobs["requeue"])
    slurm.run("scancel", "--signal=USR2", jobs["signal"])
    slurm.run("scancel", jobs["cancelled"])
    os.kill(folders["process killed"].attempts()[0]["pid"], signal.SIGKILL)
    slurm.kill_step(jobs["daemons killed"])
    slurm.kill_step(jobs["node lost"])
    os.kill(folders["node lost"].attempts()[0]["pid"], signal.SIGKILL)
    wait_for(lambda: step_of(folders["daemons killed"]) > 150, PATIENCE)  # SLURM misses a job 11 s after its start, not earlier
    slurm.register_node()
    behave(tmp_path, {})  # runs that start from now on are quick; "time limit" continues slowly until SLURM checks limits, every 30 s
    result = sweep.result()
    cancelled = result.ends.pop(runs["cancelled"].id)
    assert cancelled[0] is State.STOPPED and "was cancelled at step" in cancelled[1]
    assert {state for state, _ in result.ends.values()} == {State.DONE}, sweep.text
    assert "starting again (1 of 3 without progress)" in sweep.text  # the killed process, whose job SLURM counts as failed
    again = Sweep(store, runs.values(), site(tmp_path))
    assert again.result().exit_code == 0, again.text
    starts = {name: begins(folder) for name, folder in folders.items()}
    assert {name: len(begun) for name, begun in starts.items()} == {**dict.fromkeys(names, 2), "none": 1, "daemons killed": 1}
    assert all(begun == [0] or begun[1] > 3 for begun in starts.values()), starts
    for name, run in runs.items():
        assert folders[name].result()["hash"] == final_hash(run.seed, run.train.steps), name
        assert len(folders[name].records()) == 1, name
    assert "requeued as job" in folders["signal"].log.read_text()


def test_a_run_longer_than_its_job_resumes_in_the_next_and_one_without_progress_is_given_up(slurm: SlurmCluster, tmp_path: Path) -> None:
    long, stuck = toy_run(0, steps=60), toy_run(1)
    behave(tmp_path, {"0": {"sleep": 0.1}, "1": {"stuck": True}})
    store = Store(tmp_path / "results")
    sweep = Sweep(store, [long, stuck], site(tmp_path, time=1, margin=56, signal=5), restarts=2)
    ends = sweep.result().ends
    assert ends[long.id] == (State.DONE, ""), sweep.text
    assert ends[stuck.id][0] is State.FAILED and "time: 2 consecutive starts" in ends[stuck.id][1]
    assert store.folder(long.id).result()["hash"] == final_hash(0, 60)
    assert len(begins(store.folder(long.id))) >= 2 and begins(store.folder(stuck.id)) == [0, 0]
    assert "starting again" not in sweep.text, "it requeued itself"


def test_needs_go_first_and_a_failed_need_blocks_its_dependants(slurm: SlurmCluster, tmp_path: Path) -> None:
    good, bad = toy_run(0), toy_run(1)
    after_good, after_bad = toy_run(2, mu=0.5, frozen=good.id), toy_run(3, mu=0.5, frozen=bad.id)
    last = toy_run(4, mu=0.5, frozen=after_bad.id)
    behave(tmp_path, {"0": {"sleep": 0.05, "again_at": [10]}, "1": {"fail": "diverged"}})
    store = Store(tmp_path / "results")
    sweep = Sweep(store, [last, after_bad, after_good, good, bad], site(tmp_path))
    wait_for(lambda: "submitted 1 run" in sweep.text or sweep.future.done(), PATIENCE)
    result = sweep.result()
    blocked = {after_bad.id: State.BLOCKED, last.id: State.BLOCKED}
    ends = {name: state for name, (state, _) in result.ends.items()}
    assert ends == {good.id: State.DONE, after_good.id: State.DONE, bad.id: State.FAILED, **blocked}, sweep.text
    assert f"needs {bad.id}, which is failed: diverged: loss is nan" in result.ends[after_bad.id][1]
    assert sweep.text.count(", after ") == 3, "the dependants were in the queue before their needs had ended"
    assert begins(store.folder(good.id)) == [0, 10], "a need that is requeued keeps its dependants"
    ended = store.folder(good.id).path.joinpath("result.json").stat().st_mtime
    assert store.folder(after_good.id).attempts()[0]["time"] >= ended - 0.1
    assert not store.folder(after_bad.id).attempts()
    wait_for(lambda: slurm_queue.queue() == {}, PATIENCE)  # a run is done a moment before its job


def test_a_sweep_larger_than_an_array_is_split_and_throttled(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    require_slurm()
    runs = [toy_run(seed) for seed in range(8)]
    behave(tmp_path, {str(seed): {"sleep": 0.03} for seed in range(8)})
    store = Store(tmp_path / "results")
    with short_folder(tmp_path_factory) as folder, SlurmCluster(folder, max_array_size=3) as cluster, cluster.active():
        sweep = Sweep(store, runs, site(tmp_path, parallelism=6))
        result = sweep.result()
    assert result.exit_code == 0, sweep.text
    scripts = [path.read_text() for path in sorted(store.root.glob("slurm/*/*submission.sh"))]
    arrays = sorted(line.partition("=")[2] for text in scripts for line in text.splitlines() if line.startswith("#SBATCH --array"))
    assert arrays == ["0-1%2", "0-2%2", "0-2%2"]
    assert all(len(store.folder(run.id).attempts()) == 1 for run in runs)


def test_a_preempted_run_and_one_of_a_failed_node_start_again_where_they_were(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """A cluster of one CPU, on which another partition may take it away."""
    require_slurm()
    run, store = toy_run(0, steps=150), Store(tmp_path / "results")
    folder = store.folder(run.id)
    behave(tmp_path, {"0": {"sleep": 0.05}})
    urgent = "PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF"
    further = ["PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE", urgent]
    with short_folder(tmp_path_factory) as home, SlurmCluster(home, cpus=1, extra=further) as cluster, cluster.active():
        sweep = Sweep(store, [run], site(tmp_path, partition="main"))
        wait_for(lambda: sweep.future.done() or step_of(folder) > 3, PATIENCE)
        cluster.run("sbatch", "--partition=urgent", "--output=/dev/null", "--wrap=true")
        wait_for(lambda: sweep.future.done() or (len(begins(folder)) == 2 and step_of(folder) > begins(folder)[1]), PATIENCE)
        assert len(begins(folder)) == 2, sweep.text
        cluster.run("scontrol", "update", f"NodeName={cluster.nodes[0]}", "State=DOWN", "Reason=test")
        behave(tmp_path, {})
        cluster.wait_ready()
        result = sweep.result()
    assert result.exit_code == 0, sweep.text
    starts = begins(folder)
    assert len(starts) == 3 and 0 < starts[1] < starts[2], starts
    assert folder.result()["hash"] == final_hash(0, 150) and len(folder.records()) == 1
