"""Baselines as jobs of a plan: which ones a selection needs, and that each is measured once, also after kills and with two launchers."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from sweep_support import toy_run, wait_for

from harness.config.baselines import BaselineJob, baseline_jobs, job_from_dict
from harness.config.experiments import expand
from harness.config.parts import Denoising, Protocol
from harness.config.selection import Selection
from harness.errors import HarnessError
from harness.metrics.baselines import measure_baselines
from harness.reporting import load
from harness.store.exit_codes import ExitCode
from harness.store.runs import RunFolder, State, Store
from harness.sweep.doctor import absent
from harness.sweep.launch import LaunchOptions, launch
from harness.sweep.plan import Action, make_plan, print_plan, summary_line, wanted_jobs
from harness.sweep.status import status, table
from harness.training import baseline_job, job, trained_runs

ROOT = Path(__file__).parents[1]
JOB = BaselineJob(scale="toy", data="two-moons", samples=40, resamplings=2, sample_range="paper", quantisation="paper")


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results")


def sweep(store: Store, jobs, **options):
    console = Console(file=io.StringIO(), width=250)
    result = launch(make_plan(jobs, store), store, LaunchOptions(**{"executor": "local", "device": "cpu", **options}), console)
    return result, console.file.getvalue()


def first_start_hangs(argv) -> int:
    """The real job, whose first start waits before it measures: for `entry` of a launcher."""
    measure = baseline_job.measure_baselines

    def hang(*arguments):
        if len(RunFolder(Path(argv[0])).attempts()) == 1:
            time.sleep(float(os.environ.get("HANG", "60")))
        return measure(*arguments)

    baseline_job.measure_baselines = hang
    return job.main(argv)


# --- which jobs ---


def test_one_job_for_each_data_set_and_protocol():
    (baselines,) = baseline_jobs(expand("table1", "toy", [0, 1, 2]))
    assert baselines.id == "eight-gaussians-baselines-8c48a6657dee" and baselines.samples == 500
    released = toy_run(0, protocol=Protocol(quantisation="released"))
    assert len({other.id for other in baseline_jobs([toy_run(0), toy_run(1, mu=0.5), released])}) == 2
    assert baseline_jobs([toy_run(0, objective=Denoising())]) == []


def test_a_selection_has_the_baselines_of_its_tables_first_and_studies_have_none():
    jobs = wanted_jobs(Selection("table1", "paper"))
    assert [type(wanted) for wanted in jobs[:5]] == [BaselineJob] * 4 + [type(jobs[-1])]
    for study in ("figure1", "figure2", "figure3", "theory"):
        assert not any(isinstance(wanted, BaselineJob) for wanted in wanted_jobs(Selection(study, "toy")))


def test_a_stored_job_is_read_back_and_a_damaged_one_names_its_key():
    assert job_from_dict(JOB.to_dict()) == JOB and job_from_dict(toy_run(0).to_dict()) == toy_run(0)
    with pytest.raises(HarnessError) as caught:
        job_from_dict({**JOB.to_dict(), "samples": 0}, where="config.json")
    assert "config.json" in caught.value.details["where"] and "samples" in caught.value.details["where"]
    for config in (JOB.to_dict(), toy_run(0).to_dict()):
        with pytest.raises(HarnessError) as caught:
            job_from_dict({**config, "format": 99}, where="config.json")
        assert (caught.value.details["where"], caught.value.details["found"]) == ("config.json", "format 99")


# --- plan, status ---


def test_the_plan_shows_the_job_first_and_its_cost_once_it_was_timed(store):
    plan = make_plan([JOB, toy_run(0), toy_run(1, mu=0.5, frozen=toy_run(0).id)], store)
    assert plan.rows[0].id == JOB.id and plan.rows[0].action is Action.START
    console = Console(file=io.StringIO(), width=250)
    print_plan(plan, console)
    text = console.file.getvalue()
    assert "2 runs" in text and "1 baselines job" in text and "train.batch=8" in text, "the job does not hide what all runs share"
    folder = RunFolder.create(store.root, JOB.id, JOB.to_dict())
    folder.write_result({"step": 1, "rate": 1 / 36, "device": make_plan([JOB], store).device})
    released = JOB.model_copy(update={"quantisation": "released"})
    timed = make_plan([released], store)
    assert timed.rows[0].hours == pytest.approx(0.01) and "0.01 device-hours" in summary_line(timed)
    never_timed = make_plan([JOB.model_copy(update={"samples": 41})], store)
    assert never_timed.rows[0].hours is None and never_timed.hours == 0.0, "and does not make the cost of the runs unknown"


def test_status_shows_it_beside_the_runs(store):
    RunFolder.create(store.root, JOB.id, JOB.to_dict()).write_result({"step": 1, "rate": 2.0})
    rows = {summary.id: summary for summary in status(store, [toy_run(0), JOB])}
    assert (rows[JOB.id].state, rows[JOB.id].step, rows[JOB.id].fid) == (State.DONE, 1, None)
    assert rows[toy_run(0).id].state is State.NEW
    text = table(list(rows.values())).plain
    assert "W2" in text and "FID" not in text and "1 run and 1 baselines job" in text
    assert [summary.id for summary in status(store)] == [JOB.id]
    assert absent([JOB]) == [] and absent([JOB.model_copy(update={"data": "cifar10"})])[0].startswith("cifar10")


# --- launchers ---


@pytest.mark.parametrize("executor", ["local", "inline"])
def test_a_launcher_measures_it_once_and_reports_read_it(store, executor):
    result, text = sweep(store, [JOB], executor=executor)
    folder = store.folder(JOB.id)
    assert result.exit_code == 0 and folder.state() is State.DONE, text
    content = json.loads((folder.path / "baselines.json").read_text())
    expected = measure_baselines(JOB, store.root / "cache", torch.device("cpu"))
    assert content["rows"] == expected["rows"] and content["protocols"] == json.loads(json.dumps(expected["protocols"]))
    loaded = load.read(store.root)
    assert len(loaded.baselines) == 1 and not loaded.runs and not loaded.damage, "it is no run of a report"
    _, text = sweep(store, [JOB])
    assert "nothing to do" in text and len(folder.attempts()) == 1


def test_a_job_stopped_at_its_deadline_or_by_a_signal_begins_again(store, monkeypatch):
    folder, handler = RunFolder.create(store.root, JOB.id, JOB.to_dict()), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr(baseline_job, "measure_baselines", lambda *_: time.sleep(60))
        assert job.run_job(folder.path, "cpu", deadline=0.2) == ExitCode.STOPPED
        patched.setattr(baseline_job, "measure_baselines", lambda *_: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(60))
        assert job.run_job(folder.path, "cpu") == ExitCode.STOPPED
    assert folder.state() is State.STOPPED and make_plan([JOB], store).rows[0].action is Action.CONTINUE
    assert signal.getsignal(signal.SIGTERM) is handler and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert job.run_job(folder.path, "cpu") == ExitCode.DONE and folder.result()["step"] == 1


def test_a_failure_is_recorded_and_retried_as_asked(store, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(baseline_job, "measure_baselines", lambda *_: 1 / 0)
        result, _ = sweep(store, [JOB], executor="inline")
    assert result.exit_code == 1 and store.folder(JOB.id).error()["kind"] == "crash"
    assert make_plan([JOB], store).rows[0].action is Action.REFUSE
    assert make_plan([JOB], store, "retry-failed").rows[0].action is Action.RETRY


def launcher(store: Store, hang: float = 0, entry: str = "test_baseline_jobs:first_start_hangs", path: Path = ROOT) -> subprocess.Popen:
    """A launcher in its own process, whose job waits for `hang` seconds at its first start. path: a folder of further modules."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from rich.console import Console
from test_baseline_jobs import JOB, Store, launch, LaunchOptions, make_plan
store = Store({str(store.root)!r})
options = LaunchOptions(executor="local", device="cpu", entry={entry!r})
sys.exit(launch(make_plan([JOB], store), store, options, Console(width=250)).exit_code)
"""
    environment = {**os.environ, "HANG": str(hang), "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{path}"}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment
    )


def test_a_killed_job_is_started_again_and_ends_the_same(store):
    process, folder = launcher(store, hang=60), store.folder(JOB.id)
    wait_for(lambda: folder.attempts() or process.poll() is not None, 120)
    assert folder.attempts(), process.communicate()[0]
    os.kill(folder.attempts()[0]["pid"], signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "SIGKILL" in output, output
    assert len(folder.attempts()) == 2
    rows = json.loads((folder.path / "baselines.json").read_text())["rows"]
    assert rows == measure_baselines(JOB, store.root / "cache", torch.device("cpu"))["rows"]


def test_two_launchers_never_measure_it_twice(store):
    processes = [launcher(store, hang=2) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(store.folder(JOB.id).attempts()) == 1, outputs


def test_a_launcher_that_only_watches_ends_while_its_server_still_imports(store, tmp_path):
    """Whoever reads its output through a pipe waits for all processes that have inherited the pipe."""
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(60)\n")
    folder = RunFolder.create(store.root, JOB.id, JOB.to_dict())
    with folder.acquire():
        process = launcher(store, entry="slow_to_import:main", path=tmp_path)
        shown = iter(process.stdout.readline, "")
        assert any("watch" in line or "loading" in line for line in shown)
        folder.write_result({"step": 1, "rate": 2.0})
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output


def test_it_is_no_trained_run(store):
    folder = RunFolder.create(store.root, JOB.id, JOB.to_dict())
    with pytest.raises(HarnessError, match="no trained model") as caught:
        trained_runs.load(folder)
    assert JOB.id in caught.value.details["where"]
