"""What computes for long is a job where SLURM answers: studies of `reproduce`; other commands say that they compute here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from slurm_cluster import SlurmCluster
from sweep_support import TINY

from harness import cli
from harness.commands import studies
from harness.config.selection import Selection
from harness.errors import HarnessError
from harness.store.runs import RunFolder, Store
from harness.sweep import slurm_command
from harness.sweep.executors import ExecutorChoice, record_executor
from harness.sweep.site import Site

pytest_plugins = ["slurm_cluster"]


@pytest.fixture
def login_node(monkeypatch, tmp_path):
    monkeypatch.setattr(slurm_command, "slurm_answers", lambda: True)
    monkeypatch.setattr("harness.sweep.executors.slurm_answers", lambda: True)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("HARNESS_SITE", raising=False)
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "results"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def done_study() -> list[str]:
    """The command that reproduces a study whose runs are done."""
    for run in Selection("figure1", "toy").runs():
        RunFolder.create(Store().root, run.id, run.to_dict()).write_result({})
    return ["reproduce", "figure1", "--scale", "toy"]


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    """The commands that were started in a job; they exit with 1."""
    commands: list[list[str]] = []
    monkeypatch.setattr(slurm_command.subprocess, "run", lambda command, **_: commands.append(command) or SimpleNamespace(returncode=1))
    return commands


def test_a_study_is_measured_in_a_job_with_the_sites_options(login_node, done_study, started, tmp_path):
    (tmp_path / "site.toml").write_text(
        'partition = "cpu"\ntime = 7\ncpus = 3\nsetup = ["module load x"]\n[sbatch]\nexclude = "n1"\nexport = "NONE"\n'
    )
    assert cli.main([*done_study, "--site", str(tmp_path / "site.toml")]) == 1, "the exit code of the job"
    ((program, *words),) = started
    assert program == "srun" and {"--partition=cpu", "--time=7", "--cpus-per-task=3", "--exclude=n1", "--export=ALL"} <= {*words}
    assert words[-1].startswith("module load x\n") and "-m harness measure figure1 --scale toy" in words[-1]


@pytest.mark.parametrize("way", ["--executor local", "earlier sweeps were local", "in a job", "no SLURM"])
def test_a_study_is_measured_here_where_the_sweeps_are(login_node, done_study, started, monkeypatch, way):
    measured, options = [], way.split() if way.startswith("--") else []
    monkeypatch.setattr(studies, "measure_study", lambda arguments, name, device: measured.append(name) or 0)
    if way == "in a job":
        monkeypatch.setenv("SLURM_JOB_ID", "7")
    elif way == "no SLURM":
        monkeypatch.setattr(slurm_command, "slurm_answers", lambda: False)
    elif not options:
        record_executor(ExecutorChoice("local", "asked"), Store())
    assert cli.main([*done_study, *options]) == 0
    assert measured == ["figure1"] and not started


def test_gpus_come_from_the_site_and_are_one():
    words = slurm_command.srun(Site(gpus=4, memory=2.5), "name", ["measure", "a b"])
    assert "--gpus-per-node=1" in words and "--mem=2560M" in words and words[-2:] == ["measure", "a b"]
    words = slurm_command.srun(Site(gpus=4, sbatch={"gres": "gpu:a100:4", "exclusive": True, "oversubscribe": False}), "name", ["measure"])
    assert (
        "--gres=gpu:a100:4" in words and "--exclusive" in words and not any("gpus-per-node" in word or "oversub" in word for word in words)
    )


def test_without_srun_the_command_for_a_job_is_named(monkeypatch):
    def no_srun(*_, **__):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(slurm_command.subprocess, "run", no_srun)
    with pytest.raises(HarnessError) as error:
        slurm_command.run_in_a_job(Site(), "name", ["measure", "figure1"])
    assert "harness measure figure1" in error.value.details["nearest"]


@pytest.mark.parametrize("command", ["measure {} --device cpu", "run {} --device cpu", "prepare cifar10 --from {}"])
def test_commands_that_compute_here_say_so_on_a_login_node_only(login_node, monkeypatch, capsys, command, tmp_path):
    run = Selection("table1", "toy", seeds=(0,)).runs()[0]
    folder = RunFolder.create(tmp_path / "results", run.id, run.to_dict())
    monkeypatch.setattr("harness.training.job.main", lambda *_: 0)
    expected = {True: 1, False: 0}
    for answers, lines in expected.items():
        monkeypatch.setattr(slurm_command, "slurm_answers", lambda answers=answers: answers)
        cli.main(command.format(folder.path).split())
        assert capsys.readouterr().err.count("srun") == lines


@pytest.mark.slurm
def test_a_real_srun_runs_the_command_and_returns_its_exit_code(slurm: SlurmCluster, tmp_path, capfd):
    words = ["plan", "table1", *TINY, "--seeds", "1", "--results", str(tmp_path / "a b")]
    site = Site(time=2, setup=("export MARK=1",))
    assert slurm_command.run_in_a_job(site, "plan", words) == 0 and "harness run eight-gaussians-ic-s0" in capfd.readouterr().out
    assert slurm_command.run_in_a_job(site, "plan", [*words, "--set", "no.key=1"]) == 2 and "no.key" in capfd.readouterr().err
