"""The SLURM that tests start is a real one: submitit's jobs run, are requeued, cancelled, killed and accounted for on it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm_cluster
import submitit
from slurm_cluster import SlurmCluster, slurm_available, wait_for

pytest_plugins = ["slurm_cluster"]
pytestmark = pytest.mark.slurm
PATIENCE = 120  # seconds, for machines that are busy with something else
INSTALLER = Path(__file__).parents[1] / ".ci" / "install-slurm"


class Marathon:
    """Writes its process id and its number of restarts to `log`, then runs until it has been restarted."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __call__(self) -> str:
        restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {restarts}\n")
        deadline = time.monotonic() + PATIENCE
        while restarts == "0" and time.monotonic() < deadline:
            time.sleep(0.05)
        return f"restarted {restarts} times"

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        return submitit.helpers.DelayedSubmission(self)


@pytest.fixture(autouse=True)
def jobs_can_import_this_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)


def executor(folder: Path, **parameters: object) -> submitit.AutoExecutor:
    submitter = submitit.AutoExecutor(folder=folder, cluster="slurm")
    submitter.update_parameters(timeout_min=5, cpus_per_task=1, **parameters)
    return submitter


def starts(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def report(job: submitit.Job) -> str:
    return f"{job.stdout()}\n{job.stderr()}"


def test_an_array_of_four_jobs_gives_four_results(slurm: SlurmCluster, tmp_path: Path) -> None:
    jobs = executor(tmp_path).map_array(pow, [2, 3, 4, 5], [2, 2, 2, 2])
    wait_for(lambda: all(job.done() for job in jobs), PATIENCE, lambda: report(jobs[0]))
    assert [job.result() for job in jobs] == [4, 9, 16, 25]
    assert {job.job_id.split("_")[1] for job in jobs} == {"0", "1", "2", "3"}


def test_requeued_jobs_start_again_and_cancelled_ones_do_not(slurm: SlurmCluster, tmp_path: Path) -> None:
    """Requeued by `scontrol requeue`, and by the signal that announces the time limit; test_slurm.py waits for a real limit."""
    logs = [tmp_path / f"{name}.log" for name in ("requeue", "signal", "cancel")]
    jobs = [executor(tmp_path).submit(Marathon(log)) for log in logs]
    wait_for(lambda: all(starts(log) for log in logs), PATIENCE, lambda: report(jobs[0]))
    slurm.run("scontrol", "requeue", jobs[0].job_id)
    slurm.run("scancel", "--signal=USR2", jobs[1].job_id)
    slurm.run("scancel", jobs[2].job_id)
    wait_for(lambda: all(job.done() for job in jobs[:2]), PATIENCE, lambda: "\n".join(map(report, jobs)))
    assert [job.result() for job in jobs[:2]] == ["restarted 1 times"] * 2
    for log in logs[:2]:
        (first, _), (second, restarts) = starts(log)
        assert first != second and restarts == "1"
    assert [slurm.job(job.job_id)["Restarts"] for job in jobs] == ["1", "1", "0"]
    assert slurm.wait_state(jobs[2].job_id, "CANCELLED") == "CANCELLED"
    assert len(starts(logs[2])) == 1 and not jobs[2].paths.result_pickle.exists()


def test_a_job_whose_step_daemons_are_killed_is_not_noticed_and_its_process_lives_on(slurm: SlurmCluster, tmp_path: Path) -> None:
    job = executor(tmp_path).submit(Marathon(tmp_path / "log"))
    wait_for(lambda: bool(starts(tmp_path / "log")), PATIENCE, lambda: report(job))
    daemons = slurm.step_daemons(job.job_id)
    assert set(daemons) == {"batch", "0"}
    assert sorted(slurm.kill_step(job.job_id)) == sorted(daemons.values())
    wait_for(lambda: not slurm.step_daemons(job.job_id), PATIENCE, lambda: str(slurm.processes()))
    assert slurm.state(job.job_id) == "RUNNING"
    orphan = int(starts(tmp_path / "log")[0][0])
    assert orphan in slurm.processes()
    slurm.cancel_all()
    wait_for(lambda: orphan not in slurm.processes(), PATIENCE, lambda: str(slurm.processes()))
    assert {slurm.state(job.job_id), *slurm.step_daemons(job.job_id)} == {"CANCELLED"}


def test_arrays_as_large_as_the_limit_are_refused_and_stopping_leaves_no_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    slurm_cluster.require_slurm()
    folder = tmp_path_factory.mktemp("small")
    with (
        slurm_cluster.short_folder(tmp_path_factory) as home,
        SlurmCluster(home, max_array_size=3, gpus=1, nodes=2) as cluster,
        cluster.active(),
    ):
        assert len(executor(folder).map_array(abs, range(3))) == 3
        with pytest.raises(submitit.core.utils.FailedJobError, match="Invalid job array"):
            executor(folder).map_array(abs, range(4))
        job = executor(folder, gpus_per_node=1).submit(Marathon(folder / "log"))
        wait_for(lambda: bool(starts(folder / "log")), PATIENCE, lambda: report(job))
        alive = cluster.processes()
        assert any("slurmstepd" in command for command in alive.values())
    assert cluster.processes() == {}
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in alive)  # a zombie that was not reaped yet has no exe
    assert "SLURM_CONF" not in os.environ


def test_sacct_answers_with_accounting(slurm_accounting: SlurmCluster, tmp_path: Path) -> None:
    job = executor(tmp_path, slurm_account=slurm_accounting.account).submit(pow, 2, 3)
    assert job.result() == 8
    fields = ("sacct", "--noheader", "--allocations", "--parsable2", "--format=State,Account", f"--jobs={job.job_id}")
    wait_for(lambda: "COMPLETED" in slurm_accounting.run(*fields), PATIENCE, slurm_accounting.log_tails)
    assert slurm_accounting.run(*fields).strip() == "COMPLETED|lab"
    job.watcher.update()
    assert job.state == "COMPLETED"
    with pytest.raises(submitit.core.utils.FailedJobError, match="Invalid account"):
        executor(tmp_path, slurm_account="nobody").submit(abs, 1)


def test_daemons_end_with_the_process_that_started_them(tmp_path_factory: pytest.TempPathFactory) -> None:
    slurm_cluster.require_slurm()
    folder = tmp_path_factory.mktemp("s") / "slurm"  # tmp_path carries the test's name, too long for the daemons' sockets
    program = (
        f"import os, pathlib, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import slurm_cluster\n"
        f"with slurm_cluster.SlurmCluster(pathlib.Path({str(folder)!r})) as cluster: os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == -9
    left = SlurmCluster(folder)
    wait_for(lambda: not left.processes(), PATIENCE, lambda: str(left.processes()))
    assert (folder / "logs" / "slurmctld.log").stat().st_size > 0


def test_a_machine_without_slurm_skips_with_the_reason_or_fails_where_slurm_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_cluster, "SEARCH_PATH", "/nowhere")
    available, reason = slurm_available()
    assert not available and "slurmctld" in reason and ".ci/install-slurm" in reason
    monkeypatch.delenv("HARNESS_REQUIRE_SLURM", raising=False)
    with pytest.raises(pytest.skip.Exception, match="slurmctld"):
        slurm_cluster.require_slurm()
    monkeypatch.setenv("HARNESS_REQUIRE_SLURM", "1")
    with pytest.raises(pytest.fail.Exception, match="HARNESS_REQUIRE_SLURM"):
        slurm_cluster.require_slurm()


def test_a_folder_too_long_for_unix_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too long"):
        SlurmCluster(tmp_path / ("x" * 70))


def test_the_installer_does_nothing_where_all_is_installed() -> None:
    slurm_cluster.require_slurm(accounting=True)
    done = subprocess.run([INSTALLER], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "already installed" in done.stdout


def test_the_installer_refuses_an_unknown_argument() -> None:
    done = subprocess.run([INSTALLER, "--everything"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and "--everything" in done.stderr
