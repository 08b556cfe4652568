"""A job: its exit codes and messages, killed and resumed as a real process, on one process and on two."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from sweep_support import wait_for
from test_checkpoint import flipped, full_disk, truncated
from train_support import COUPLINGS, difference, tiny_run

from harness.config.parts import Data, Denoising, EasyConsistencyTuning, Evaluation, GeneratorAugmented, Init, Protocol
from harness.config.run import Run
from harness.store.exit_codes import ExitCode
from harness.store.lease import Lease
from harness.store.runs import RunFolder, State, Store
from harness.training import checkpoints, job, trained_runs

EVALUATION = Evaluation(every=100, samples=64, resamplings=2, grid=8)


def long_run(coupling="gc", **changes) -> Run:
    """About a second of training, a checkpoint every ten steps."""
    return tiny_run(coupling, **{"steps": 300, "evaluation": EVALUATION, "checkpoint_every": 10, **changes})


def make(root: Path, run: Run) -> RunFolder:
    return RunFolder.create(root, run.id, run.to_dict())


def finish(root: Path, run: Run, *options: str) -> RunFolder:
    folder = make(root, run)
    assert job.main([str(folder.path), "--device", "cpu", *options]) == ExitCode.DONE
    return folder


def last_state(folder: RunFolder) -> dict:
    state = checkpoints.load_newest(folder.path / "checkpoints", folder.id)
    assert state is not None
    return state


def rows(folder: RunFolder, without: tuple[str, ...] = ()) -> list[dict]:
    """The records but for their times, and for the checksums that cover these."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "check")} for row in folder.records() if row["metric"] not in without]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Callable[[str], RunFolder]:
    """coupling -> the finished folder of its long run, trained once."""
    root = tmp_path_factory.mktemp("undisturbed")
    return cache(lambda coupling: finish(root, long_run(coupling)))


def same_as(folder: RunFolder, other: RunFolder) -> bool:
    assert difference(last_state(folder), last_state(other)) == []
    assert rows(folder) == rows(other)
    return folder.result()["fid"] == other.result()["fid"] and folder.state() is State.DONE


def start(folder: RunFolder, *options: str, **environment: str) -> subprocess.Popen:
    """A real `python -m harness.training.job`. Byte code is kept, or each start would compile torch again where the caller forbids it."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | environment
    command = [sys.executable, "-m", "harness.training.job", str(folder.path), "--device", "cpu", *options]
    home = Path(__file__).parent.parent
    return subprocess.Popen(command, cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def trained_to(folder: RunFolder, step: int, process: subprocess.Popen) -> None:
    def arrived() -> bool:
        assert process.poll() is None, process.stdout.read()
        return max(folder.stored_steps(), default=0) >= step

    wait_for(arrived, seconds=120)


def test_kill_9_in_the_middle_changes_nothing(tmp_path, undisturbed):
    for name in COUPLINGS:
        folder = make(tmp_path, long_run(name))
        process = start(folder)
        trained_to(folder, 110, process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert folder.state() in (State.STALLED, State.RUNNING)
        finish(tmp_path, long_run(name))
        first, second = (attempt["step"] for attempt in folder.attempts())
        assert first == 0 < second < 300
        assert same_as(folder, undisturbed(name))


def test_sigterm_saves_and_the_same_command_resumes(tmp_path, undisturbed):
    folder = make(tmp_path, long_run("gc"))
    process = start(folder)
    trained_to(folder, 20, process)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == ExitCode.STOPPED, output
    assert folder.state() is State.STOPPED and folder.error() is None and "Traceback" not in output
    finish(tmp_path, long_run("gc"))
    assert same_as(folder, undisturbed("gc"))


def test_a_deadline_saves_and_the_same_command_resumes(tmp_path, undisturbed):
    folder = make(tmp_path, long_run("ic"))
    codes = [job.main([str(folder.path), "--deadline", "0.05"]) for _ in range(4)]
    assert codes[0] == ExitCode.STOPPED and set(codes) <= {ExitCode.STOPPED, ExitCode.DONE}
    finish(tmp_path, long_run("ic"))
    assert same_as(folder, undisturbed("ic"))


def test_records_lost_from_the_file_come_back_from_the_checkpoint(tmp_path, undisturbed):
    folder = make(tmp_path, long_run("ic"))
    while not any(row["metric"] == "w2" for row in folder.records()):
        assert job.main([str(folder.path), "--deadline", "0.3"]) == ExitCode.STOPPED
    path = folder.path / "records.jsonl"
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 3])
    finish(tmp_path, long_run("ic"))
    key = lambda row: (row["step"], row["final"], row["metric"])  # noqa: E731
    assert sorted(rows(folder), key=key) == sorted(rows(undisturbed("ic")), key=key)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_two_processes_train_as_one_stop_together_and_resume_also_as_one(tmp_path, capsys):
    """One and two rows of three per step; no dropout, whose masks each process draws itself."""
    run = long_run("ic", batch=3, dropout=0.0, steps=200)
    alone, folder = finish(tmp_path / "alone", run), make(tmp_path / "two", run)

    def both() -> list[subprocess.Popen]:
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "GLOO_SOCKET_IFNAME": "lo"}
        return [start(folder, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(2)]

    processes = both()
    trained_to(folder, 20, processes[0])
    processes[1].terminate()  # one gets the signal, both stop at the same step
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [ExitCode.STOPPED] * 2, outputs
    shutil.copytree(tmp_path / "two", tmp_path / "two-then-one")
    changed = finish(tmp_path / "two-then-one", run)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "resuming" in line]
    assert "on 1 process " in line and "was 2" in line
    processes = both()
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [ExitCode.DONE] * 2, outputs

    assert folder.stored_steps() == [190, 200]
    assert folder.result()["processes"] == 2 and len(folder.attempts()) == 2
    theirs = last_state(alone)
    for ours in (last_state(folder), last_state(changed)):
        for part in ("online", "ema"):
            for name, weights in ours[part].items():
                assert torch.allclose(weights, theirs[part][name], rtol=1e-3, atol=2e-4), name
    pairs = list(zip(rows(folder, without=("pair_cost",)), rows(alone, without=("pair_cost",)), strict=True))
    assert pairs and all(a["metric"] == b["metric"] and a["step"] == b["step"] for a, b in pairs)
    assert [a["value"] for a, _ in pairs] == pytest.approx([b["value"] for _, b in pairs], abs=0.02)
    of_one, *of_others = [
        [(row["step"], row["n"], row["value"]) for row in rows(each) if row["metric"] == "loss"] for each in (alone, folder, changed)
    ]
    assert len(of_one) == 2
    for losses in of_others:
        assert losses == [(step, n, pytest.approx(value, rel=1e-3)) for step, n, value in of_one]


# --- what bad input gets


def failed(folder: RunFolder, code: int, kind: str | None, capsys, *facts: str) -> str:
    """Runs the job, which must end with `code`, print each of `facts`, show no traceback and leave error.json of `kind`."""
    capsys.readouterr()
    assert job.main([str(folder.path), "--device", "cpu"]) == code
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    for fact in facts:
        assert fact in printed
    assert folder.result() is None and (folder.error() or {}).get("kind") == kind
    return printed


def stopped(root: Path, run: Run) -> RunFolder:
    """A run that was stopped in the middle, with two checkpoints."""
    folder = make(root, run)
    while len(folder.stored_steps()) < 2:
        assert job.main([str(folder.path), "--deadline", "0.1"]) == ExitCode.STOPPED
    return folder


def test_a_damaged_newest_checkpoint_is_named_and_the_run_ends_as_undisturbed(tmp_path, undisturbed, capsys):
    folder = stopped(tmp_path, long_run("ic"))
    newest = folder.stored_steps()[-1]
    truncated(folder.path / "checkpoints" / f"step-{newest:08d}.pt")
    finish(tmp_path, long_run("ic"))
    assert f"step-{newest:08d}.pt" in capsys.readouterr().err
    assert same_as(folder, undisturbed("ic"))


def test_a_damaged_checkpoint_does_not_count_as_one_of_the_two_that_are_kept(tmp_path):
    folder = finish(tmp_path, tiny_run("ic"))
    (folder.path / "result.json").unlink()
    assert folder.stored_steps() == [21, 24]
    truncated(folder.path / "checkpoints" / "step-00000024.pt")
    assert job.main([str(folder.path), "--deadline", "0"]) == ExitCode.STOPPED
    assert folder.stored_steps() == [21, 22]


def test_when_every_checkpoint_is_damaged_the_run_does_not_start_over(tmp_path, capsys):
    folder = stopped(tmp_path, long_run("ic"))
    for path in (folder.path / "checkpoints").glob("*.pt"):
        flipped(path)
    failed(folder, ExitCode.BAD_INPUT, "input", capsys, "2 damaged", str(folder.path / "checkpoints"))


def test_a_checkpoint_of_another_config_is_refused(tmp_path, capsys):
    other, folder = finish(tmp_path, tiny_run("ic")), make(tmp_path, tiny_run("gc"))
    (other.path / "checkpoints").rename(folder.path / "checkpoints")
    failed(folder, ExitCode.BAD_INPUT, "input", capsys, other.id, folder.id)


def test_a_full_disk_ends_the_job_and_costs_nothing(tmp_path, undisturbed, capsys, monkeypatch):
    """From the third checkpoint on no file may grow beyond 4 kB."""
    folder, save, saved = make(tmp_path, long_run("ic")), checkpoints.save, []

    def save_on_a_full_disk(*args, **options):
        saved.append(args)
        if len(saved) < 3:
            return save(*args, **options)
        with full_disk(4096):
            return save(*args, **options)

    monkeypatch.setattr(checkpoints, "save", save_on_a_full_disk)
    failed(folder, ExitCode.BAD_INPUT, "input", capsys, "step-00000030.pt", "File too large")
    assert folder.stored_steps() == [10, 20] and last_state(folder)["step"] == 20
    assert not list(folder.path.rglob("*.tmp"))
    monkeypatch.undo()
    finish(tmp_path, long_run("ic"))
    assert folder.error() is None and same_as(folder, undisturbed("ic"))


def test_a_diverging_run_is_reported_and_keeps_its_finite_checkpoints(tmp_path, capsys):
    run = tiny_run("ic", steps=100, evaluation=EVALUATION, checkpoint_every=4)
    run = run.model_copy(update={"train": run.train.model_copy(update={"lr": 1e6})})
    folder = make(tmp_path, run)
    failed(folder, ExitCode.FAILED, "diverged", capsys, folder.id, "between steps")
    states = [checkpoints.load(folder.path / "checkpoints", folder.id, step) for step in folder.stored_steps()]
    assert all(tensor.isfinite().all() for state in states for tensor in state["online"].values())
    assert folder.records() == [] and folder.state() is State.FAILED


def test_a_crash_leaves_its_traceback(tmp_path, monkeypatch, capsys):
    folder = make(tmp_path, tiny_run())
    monkeypatch.setattr(job, "train", lambda *args, **options: 1 / 0)
    assert job.main([str(folder.path)]) == ExitCode.FAILED
    assert folder.error()["kind"] == "crash" and "ZeroDivisionError" in folder.error()["traceback"]


def test_a_done_run_is_left_alone(tmp_path, capsys):
    folder = finish(tmp_path, tiny_run())
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    finish(tmp_path, tiny_run())
    assert folder.id in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")} == before


def test_other_bad_input_is_one_message(tmp_path, capsys):
    nowhere = RunFolder(tmp_path / "runs" / "nowhere")
    assert failed(nowhere, ExitCode.BAD_INPUT, None, capsys, "nowhere", "No such file").count("where:") == 1
    assert not nowhere.path.exists()
    unknown = make(tmp_path, tiny_run(data=Data(name="eight-gausians")))
    failed(unknown, ExitCode.BAD_INPUT, "input", capsys, "eight-gausians", "eight-gaussians")
    folder = make(tmp_path, tiny_run())
    for device in ("cuda", "gpu"):
        if device == "gpu" or not torch.cuda.is_available():
            assert job.main([str(folder.path), "--device", device]) == ExitCode.BAD_INPUT
            printed = capsys.readouterr().err
            assert "--device" in printed and f"found:    {device}" in printed and "cpu" in printed
    (folder.path / "config.json").write_text('{"scale": "toy"')
    failed(folder, ExitCode.BAD_INPUT, "input", capsys, str(folder.path / "config.json"))
    few = make(tmp_path, tiny_run(evaluation=Evaluation(every=10, samples=1)))
    failed(few, ExitCode.BAD_INPUT, "input", capsys, "evaluation.samples")


# --- needs


def test_a_frozen_predictor_is_another_runs_average(tmp_path, capsys, monkeypatch):
    first = tiny_run("ic", keep_steps=(5,))
    frozen = GeneratorAugmented(mu=1.0, predictor="frozen", frozen=first.id)
    early = frozen.model_copy(update={"frozen_step": 5})
    failed(make(tmp_path, tiny_run(frozen)), ExitCode.BAD_INPUT, "input", capsys, first.id)
    make(tmp_path, first)
    failed(make(tmp_path, tiny_run(frozen)), ExitCode.BAD_INPUT, "input", capsys, first.id, "new", "done")
    needed = finish(tmp_path, first)
    used, load = [], trained_runs.frozen_predictor
    monkeypatch.setattr(trained_runs, "frozen_predictor", lambda *args: used.append(load(*args)) or used[-1])
    late_states, early_states = (last_state(finish(tmp_path, tiny_run(coupling))) for coupling in (frozen, early))
    for network, step in zip(used, (24, 5), strict=True):
        expected = checkpoints.load(needed.path / "checkpoints", needed.id, step)["ema"]
        assert difference(network.state_dict(), expected) == [] and not network.training
    assert difference(late_states, early_states) != []
    failed(
        make(tmp_path, tiny_run(frozen.model_copy(update={"frozen_step": 9}))),
        ExitCode.BAD_INPUT,
        "input",
        capsys,
        "step-00000009",
        "5, 21, 24",
    )


def test_a_step_that_a_later_experiment_needs_is_kept_from_then_on(tmp_path):
    folder = make(tmp_path, tiny_run("ic"))
    assert job.main([str(folder.path), "--deadline", "0"]) == ExitCode.STOPPED
    finish(tmp_path, tiny_run("ic", keep_steps=(5,)))
    assert folder.stored_steps() == [5, 21, 24]


def test_a_predictor_that_does_not_fit_is_reported(tmp_path, capsys):
    first = tiny_run("ic")
    needed = finish(tmp_path, first)
    state = last_state(needed)
    state["ema"].pop("model.outputs.bias")
    checkpoints.save(needed.path / "checkpoints", needed.id, 24, state)
    run = tiny_run(GeneratorAugmented(predictor="frozen", frozen=first.id))
    failed(make(tmp_path, run), ExitCode.BAD_INPUT, "input", capsys, "model.outputs.bias", str(needed.path))


def test_tuning_starts_from_another_run(tmp_path):
    first = tiny_run("ic")
    needed = finish(tmp_path, first)
    tuned = tiny_run("ic", steps=1, objective=EasyConsistencyTuning(), init=Init(kind="run", ref=first.id))
    weights, start = last_state(finish(tmp_path, tuned))["online"], last_state(needed)["ema"]
    assert all((weights[name] - start[name]).abs().max() <= 1.01e-3 for name in start)  # one step of Adam at 1e-3


# --- records


def test_what_a_run_records(tmp_path):
    folder = finish(tmp_path, tiny_run("gc", protocol=Protocol(ema="released")))
    records = rows(folder)
    steps = {metric: [row["step"] for row in records if row["metric"] == metric and not row["final"]] for metric in ("w2", "pair_cost")}
    assert steps == {"w2": [10, 20, 24], "pair_cost": [10, 20, 24]}
    (final,) = [row for row in records if row["metric"] == "w2" and row["final"]]
    assert (final["step"], final["resamplings"], final["n"], final["images"]) == (24, 2, 32, 24 * 16)
    assert final["sd"] > 0 and folder.result()["fid"] == final["value"]
    assert sorted(path.name for path in (folder.path / "samples").iterdir()) == [f"step-{step:08d}.npy" for step in (10, 20, 24)]
    seconds = [row["seconds"] for row in folder.records()]
    assert seconds == sorted(seconds) and folder.result()["seconds"] >= seconds[-1] - 1e-3
    assert {"commit", "versions", "step", "processes"} <= folder.attempts()[0].keys()


def test_an_evaluation_that_was_recorded_is_not_measured_again(tmp_path, monkeypatch):
    run = tiny_run("ic")
    folder = finish(tmp_path, run)
    before = folder.records()
    (folder.path / "result.json").unlink()
    for path in (folder.path / "checkpoints").glob("step-00000024*"):
        path.unlink()
    finish(tmp_path, run)
    assert folder.records() == before and folder.result()["fid"] == [r["value"] for r in before if r["metric"] == "w2"][-1]


def test_a_denoiser_is_no_sampler(tmp_path):
    folder = finish(tmp_path, tiny_run("ot", objective=Denoising()))
    assert {row["metric"] for row in folder.records()} == {"pair_cost", "loss"} and folder.result()["fid"] is None


def test_the_log_shows_step_rate_time_left_loss_and_metric(tmp_path, capsys):
    finish(tmp_path, tiny_run("ic"))
    first, *lines, last = capsys.readouterr().out.splitlines()
    assert "step 0 of 24 on" in first and "done, W2 " in last
    assert len(lines) == 3 and all(word in lines[0] for word in ("step 10/24", "steps/s", "left", "loss ", "W2 "))


def test_compiling_is_announced_until_the_first_step_has_run(tmp_path, monkeypatch, capsys):
    """A stand-in for the compiler takes its time at the first call of the network, as torch.compile does."""
    run = tiny_run("ic", steps=3)
    folder = make(tmp_path, run.model_copy(update={"train": run.train.model_copy(update={"compile": True})}))
    phases, while_compiling, beat = [], [], Lease.beat

    def beat_and_keep(lease, **progress) -> None:
        phases.append((progress.get("phase"), progress.get("step")))
        beat(lease, **progress)

    def compile_slowly(module, **options) -> None:
        def first_call(*args, **kwargs):
            module._compiled_call_impl = None
            time.sleep(0.05)
            while_compiling.append((folder.read_heartbeat()["phase"], "compiling" in capsys.readouterr().out))
            return module(*args, **kwargs)

        module._compiled_call_impl = first_call

    monkeypatch.setattr(Lease, "beat", beat_and_keep)
    monkeypatch.setattr(torch.nn.Module, "compile", compile_slowly)
    assert job.main([str(folder.path), "--device", "cpu"]) == ExitCode.DONE
    assert while_compiling[0] == ("compile", True) and phases[:3] == [(None, None), ("compile", 0), ("train", 1)]


def test_without_compiling_no_phase_says_so(tmp_path, capsys):
    folder = finish(tmp_path, tiny_run("ic", steps=3))
    assert "compiling" not in capsys.readouterr().out and folder.read_heartbeat()["phase"] == "evaluate"


def test_the_store_finds_what_a_job_made(tmp_path):
    folder = finish(tmp_path, tiny_run("ic"))
    assert [stored.id for stored in Store(tmp_path).folders()] == [folder.id]
