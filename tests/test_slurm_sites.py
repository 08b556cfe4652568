"""Clusters with limits and habits of their own, on a real SLURM: submit limits, no exported environment, no srun, further options."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, wait_for
from slurm_support import Sweep, behave, site
from sweep_support import toy_run

from harness.errors import HarnessError
from harness.store.runs import State, Store
from harness.sweep import slurm as launcher

pytest_plugins = ["slurm_cluster", "slurm_support"]
pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("quick_launcher")]


@pytest.fixture
def submit_limit(slurm_accounting: SlurmCluster):
    """submit_limit(n): root may have n jobs in the queue."""

    def limit(count: int) -> None:
        slurm_accounting.run("sacctmgr", "--immediate", "modify", "user", "root", "set", f"MaxSubmitJobs={count}")

    yield limit
    limit(-1)


def test_a_sweep_larger_than_the_submit_limit_is_submitted_in_parts(
    slurm_accounting: SlurmCluster, submit_limit, tmp_path: Path, capfd
) -> None:
    submit_limit(3)
    runs = [toy_run(seed) for seed in range(7)]
    behave(tmp_path, {str(seed): {"sleep": 0.02} for seed in range(7)})
    store = Store(tmp_path / "results")
    sweep = Sweep(store, runs, site(tmp_path, account=slurm_accounting.account))
    assert sweep.result().exit_code == 0, sweep.text
    assert "AssocMaxSubmitJobLimit" in sweep.text and "sbatch: error" not in capfd.readouterr().err, "said once, by the launcher"
    assert [len(store.folder(run.id).attempts()) for run in runs] == [1] * 7


def test_a_limit_that_other_jobs_fill_is_waited_for(slurm_accounting: SlurmCluster, submit_limit, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(launcher, "RETRY_EVERY", 1.0)
    submit_limit(1)
    account = slurm_accounting.account
    job = ("--parsable", f"--account={account}", "--output=/dev/null", "--wrap", "sleep 300")
    other = slurm_accounting.run("sbatch", *job).strip()
    store, run = Store(tmp_path / "results"), toy_run(0)
    where = site(tmp_path, account=account)
    refused = Sweep(store, [run], where, wait=False)
    with pytest.raises(HarnessError) as caught:
        refused.result()
    assert "AssocMaxSubmitJobLimit" in caught.value.details["found"] and store.folder(run.id).state() is State.NEW
    sweep = Sweep(store, [run], where)
    wait_for(lambda: "AssocMaxSubmitJobLimit" in sweep.text, 60, lambda: sweep.text)
    slurm_accounting.run("scancel", other)
    assert sweep.result().exit_code == 0, sweep.text


def test_jobs_without_the_environment_of_the_shell(slurm: SlurmCluster, tmp_path: Path) -> None:
    """--export=NONE: the lines of `setup` and the HARNESS_* variables still reach the processes that srun starts."""
    store, run = Store(tmp_path / "results"), toy_run(0)
    setup = [f"export PYTHONPATH={Path(__file__).parent} FAKE_JOBS={tmp_path / 'jobs.json'}"]
    path = Path(site(tmp_path, setup=setup, tasks=2))
    path.write_text(path.read_text() + '\n[sbatch]\nexport = "NONE"\ncomment = "two words"\n')
    sweep = Sweep(store, [run], str(path))
    assert sweep.result().exit_code == 0, sweep.text
    assert store.folder(run.id).attempts()


def test_jobs_do_not_inherit_the_memory_limit_of_the_login_node(slurm: SlurmCluster, tmp_path: Path) -> None:
    store, run = Store(tmp_path / "results"), toy_run(0)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, before[1]))
    try:
        sweep = Sweep(store, [run], site(tmp_path))
        assert sweep.result().exit_code == 0, sweep.text
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert [attempt["limit"] for attempt in store.folder(run.id).attempts()] == [resource.RLIM_INFINITY]


def test_a_job_without_srun(slurm: SlurmCluster, tmp_path: Path) -> None:
    store, run = Store(tmp_path / "results"), toy_run(0)
    sweep = Sweep(store, [run], site(tmp_path, srun=False))
    assert sweep.result().exit_code == 0, sweep.text
    text = next(store.root.glob("slurm/*/*submission.sh")).read_text()
    assert "\nsrun " not in text


def test_gpus_by_gres(slurm: SlurmCluster, tmp_path: Path) -> None:
    """This cluster has no GPUs, so SLURM refuses the request, in which the launcher's own option does not appear."""
    store, run = Store(tmp_path / "results"), toy_run(0)
    path = Path(site(tmp_path, gpus=1))
    path.write_text(path.read_text() + '\n[sbatch]\ngres = "gpu:a100:1"\n')
    with pytest.raises(HarnessError) as caught:
        Sweep(store, [run], str(path)).result()
    assert "generic resource" in caught.value.details["found"] or "gres" in caught.value.details["found"].lower()
    text = next(store.root.glob("slurm/*/*submission*.sh")).read_text()
    assert "--gres=gpu:a100:1" in text and "gpus-per-node" not in text
