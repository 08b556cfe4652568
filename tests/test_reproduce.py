"""`harness reproduce`: one command from plan to table or study, with every option of a sweep; real processes, tiny runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from slurm_cluster import SlurmCluster
from sweep_support import TINY, harness, wait_for

from harness import cli
from harness.commands import reproduce, studies, sweeps
from harness.config import experiments
from harness.config.selection import Selection
from harness.store.exit_codes import ExitCode
from harness.store.gpus import find_gpus
from harness.store.machine import cores, idle_cores
from harness.store.runs import RunFolder, State, Store
from harness.sweep.supervisor import SweepResult
from harness.theory.studies import STUDIES

pytest_plugins = ["slurm_cluster"]


@pytest.mark.parametrize(
    ("experiment", "options"),
    [
        ("table1", ["--workers", "2", "--policy", "retry-failed", "--seeds", "2", "--executor", "local"]),
        ("sweep-mu", ["--seeds", "3,", "--executor", "inline", "--quiet", "--device", "cpu", "--set", "coupling.predictor=online"]),
        ("table3", ["--no-wait", "--workers", "1"]),
    ],
)
def test_every_option_of_a_sweep_works_up_to_the_table(tmp_path, experiment, options):
    done = harness("reproduce", experiment, "--results", str(tmp_path / "my results"), *TINY, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "iCT-GC" in done.stdout
    assert list((tmp_path / "my results" / "tables").glob("*.md"))
    again = harness("reproduce", experiment, "--results", str(tmp_path / "my results"), *TINY, *options)
    assert again.returncode == 0 and "nothing to do" in again.stdout


def test_a_coupling_of_ones_own_gets_its_row(tmp_path):
    (tmp_path / "my.py").write_text("def swapped(x, z, sigma, predict):\n    return x, z.flip(0)\n")
    options = ["--seeds", "1", "--coupling", f"{tmp_path / 'my.py'}:swapped", "--results", str(tmp_path / "results"), "--workers", "2"]
    done = harness("reproduce", "table1", *TINY, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "swapped" in done.stdout


def test_the_first_table_is_printed_before_the_last_seed_is_done(tmp_path):
    done = harness("reproduce", "table1", "--seeds", "3", *TINY, "--results", str(tmp_path), "--executor", "inline")
    assert done.returncode == 0, done.stdout + done.stderr
    places = [match.start() for match in re.finditer(r"n = [12]\)", done.stdout)]
    assert len(places) == 2
    assert places[0] < done.stdout.index("-gc-0.5-s1-", done.stdout.index("== ")) < places[1] < done.stdout.rindex("== ")
    assert all("iCT-GC" in done.stdout[place:] for place in places)


@pytest.mark.slow
def test_a_study_is_measured_after_its_sweep(tmp_path):
    done = harness("reproduce", "figure1", *TINY, "--results", str(tmp_path), "--workers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "measured" / "toy" / "variants").iterdir()  # of other runs than the experiment's own
    assert path.name.startswith("figure1-") and not (tmp_path / "measured" / "toy" / "figure1.csv").exists()


@pytest.mark.slurm
@pytest.mark.timeout(600)
def test_on_slurm_no_wait_submits_and_the_same_command_reports(slurm: SlurmCluster, tmp_path):
    store, site = Store(tmp_path / "results"), tmp_path / "site.toml"
    site.write_text('time = 5\npartition = "main"\n')
    where = ["--seeds", "1", "--results", str(store.root), "--site", str(site)]
    command = ["reproduce", "table1", *TINY, *where, "--no-wait", "--executor", "slurm"]
    slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        submitted = harness(*command)
        assert submitted.returncode == 0, submitted.stdout + submitted.stderr
        assert {folder.state() for folder in store.folders()} == {State.QUEUED} and len(store.folders()) == 4
        (advice,) = re.findall(r"harness (reproduce table1 .*)", submitted.stdout)
        assert str(site) in advice and str(store.root) in advice
    finally:
        slurm.run("scontrol", "update", "PartitionName=main", "State=UP")
    wait_for(lambda: all(folder.state() is State.DONE for folder in store.folders()), 240)
    reported = harness(*shlex.split(advice))
    assert reported.returncode == 0 and "nothing to do" in reported.stdout, reported.stdout + reported.stderr
    assert len(list((store.root / "tables").glob("table1-toy-*.csv"))) == 1, "the changed keys are part of the name"
    assert all(attempt["executor"] == "slurm" for folder in store.folders() for attempt in folder.attempts())


def test_cuda_without_a_gpu_is_refused_before_anything_starts(tmp_path):
    if find_gpus().usable:
        pytest.skip("this machine has a GPU")
    done = harness("reproduce", "table1", *TINY, "--device", "cuda", "--results", str(tmp_path))
    assert done.returncode == 2 and "--device" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("runs/*/result.json"))


def test_ctrl_c_in_an_inline_run_ends_the_command(tmp_path, monkeypatch, capsys):
    started = []
    monkeypatch.setattr("harness.training.job.main", lambda arguments: started.append(arguments[0]) or ExitCode.STOPPED)
    options = ["--seeds", "1", *TINY, "--results", str(tmp_path), "--executor", "inline"]
    assert cli.main(["reproduce", "all", *options]) == 130
    assert len(started) == 1 and not (tmp_path / "tables").exists()
    assert Path(started[0]).name in capsys.readouterr().out.split("these are not", 1)[1]


@pytest.fixture
def launched(monkeypatch, tmp_path) -> list[Selection]:
    """The selections that would be swept; every sweep ends at once, with nothing done."""
    seen: list[Selection] = []

    def sweep_plan(arguments, chosen, out, trained=()):
        seen.append(chosen)
        return original(arguments, chosen, out, trained)

    original = sweeps.sweep_plan
    monkeypatch.setattr(sweeps, "sweep_plan", sweep_plan)
    monkeypatch.setattr(sweeps, "launch_plan", lambda *_: SweepResult())
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "results"))
    return seen


def test_all_is_every_experiment_in_order_with_the_same_options(launched):
    assert cli.main(["reproduce", "all", "--scale", "toy", "--seeds", "2"]) == 0
    assert [chosen.experiment for chosen in launched] == list(reproduce.order())
    assert {(chosen.scale, chosen.seeds) for chosen in launched} == {("toy", (0, 1))}


def test_all_includes_every_experiment_file_and_measures_studies_last(tmp_path, monkeypatch):
    order = reproduce.order()
    assert order[:2] == ("table1", "sweep_mu") and sorted(order) == sorted(experiments.names())
    studied = [name in STUDIES for name in order]
    assert studied == sorted(studied)
    for name in ("table1", "theory", "mine"):
        (tmp_path / f"{name}.py").write_text("def runs(scale, seeds):\n    return []\n")
    monkeypatch.setenv("HARNESS_EXPERIMENTS", str(tmp_path))
    assert reproduce.order() == ("table1", "mine", "theory")


def test_what_is_not_done_is_reported_with_the_command_that_continues(launched, capsys):
    assert cli.main(["reproduce", "figure1", *TINY]) == 0
    printed = capsys.readouterr().out
    assert f"harness reproduce figure1 {' '.join(TINY)}" in printed
    assert not Store().root.exists() or not list(Store().root.glob("measured/*/*"))


@pytest.mark.parametrize(("wish", "device"), [("cuda", "auto"), ("auto", "auto"), ("cpu", "cpu")])
def test_a_study_is_measured_on_this_machine_whatever_the_jobs_ran_on(launched, monkeypatch, wish, device):
    """--device cuda is the jobs': on SLURM they have GPUs that the machine of the command has not."""
    measured = []
    monkeypatch.setattr(studies, "measure_study", lambda arguments, name, device: measured.append((name, device)) or 0)
    for run in Selection("figure1", "toy").runs():
        RunFolder.create(Store().root, run.id, run.to_dict()).write_result({})
    assert cli.main(["reproduce", "figure1", "--scale", "toy", "--device", wish]) == 0
    assert measured == [("figure1", device)]


def test_a_wrong_key_for_one_experiment_of_all_starts_nothing(launched, capsys):
    assert cli.main(["reproduce", "all", "--scale", "toy", "--set", "coupling.scope=global"]) == 2
    assert launched == [] and "scope" in capsys.readouterr().err


def test_a_study_uses_no_more_threads_than_idle_cores(monkeypatch):
    before = torch.get_num_threads()
    assert 1 <= idle_cores() <= cores()
    try:
        torch.set_num_threads(4)
        monkeypatch.setattr(studies, "idle_cores", lambda: 2)
        assert studies._device("cpu") == torch.device("cpu") and torch.get_num_threads() == 2
        monkeypatch.setattr(studies, "idle_cores", lambda: 8)
        assert studies._device("cpu") and torch.get_num_threads() == 2, "as OMP_NUM_THREADS may have set"
    finally:
        torch.set_num_threads(before)
