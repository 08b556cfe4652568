"""Watchers of a training (--log): TensorBoard, Weights & Biases offline, a class of one's own; none of them changes the run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from train_support import tiny_run

from harness.cli import main
from harness.config.run import Run, varied
from harness.config.watching import VARIABLE, choose_watchers, chosen_watchers
from harness.errors import HarnessError
from harness.store.exit_codes import ExitCode
from harness.store.runs import RunFolder
from harness.training import job, watchers

OWN = '''
import json, pathlib

class Mine:
    """Writes down what it is told."""

    def start(self, run, folder, step):
        self.file = folder / "mine.jsonl"
        self.write("start", run.id, step)

    def scalars(self, step, values):
        self.write("scalars", step, values)

    def samples(self, step, path):
        self.write("samples", step, path.name)

    def end(self, finished):
        self.write("end", finished)

    def write(self, *what):
        with self.file.open("a") as file:
            file.write(json.dumps(what) + "\\n")


class Bad:
    def scalars(self, step, values):
        raise RuntimeError("no network")
'''


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    """Nobody watches and no code is trusted, before the test and after it."""
    for variable in (VARIABLE, "HARNESS_TRUST"):
        monkeypatch.setenv(variable, "")  # so that what the test sets is undone


@pytest.fixture
def own(tmp_path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def carry_out(root: Path, run: Run, deadline: float | None = None) -> RunFolder:
    folder = RunFolder.create(root, run.id, run.to_dict())
    assert job.run_job(folder.path, "cpu", deadline) in (ExitCode.DONE, ExitCode.STOPPED)
    return folder


def values(folder: RunFolder) -> list[tuple]:
    return [(row["step"], row["metric"], row["final"], row["value"]) for row in folder.records()]


def test_a_class_of_ones_own_is_told_everything_once(own, tmp_path):
    run = tiny_run(steps=60)
    choose_watchers([f"{own}:Mine"])
    folder = carry_out(tmp_path / "a", run)
    told = [json.loads(line) for line in (folder.path / "mine.jsonl").read_text().splitlines()]
    assert told[0] == ["start", run.id, 0] and told[-1] == ["end", True]
    losses = [(step, values["loss"]) for kind, step, values in told[1:-1] if kind == "scalars" and "loss" in values]
    assert [step for step, _ in losses] == sorted({step for step, _ in losses}) and {1, 50} <= {step for step, _ in losses}
    shown_as = {"loss": "mean_loss"}  # "loss" is that of a single step
    recorded = {(step, ("final/" if final else "") + shown_as.get(name, name)): value for step, name, final, value in values(folder)}
    shown = {(step, name): value for kind, step, parts in told[1:-1] if kind == "scalars" for name, value in parts.items()}
    assert {key: value for key, value in shown.items() if key[1] not in ("loss", "steps_per_second")} == recorded
    assert [step for kind, step, *_ in told if kind == "samples"] == [10, 20, 30, 40, 50, 60]


def test_a_watcher_that_fails_is_dropped_and_the_run_is_the_same(own, tmp_path, capsys):
    run = tiny_run()
    plain = carry_out(tmp_path / "plain", run)
    choose_watchers([f"{own}:Bad", f"{own}:Mine"])
    watched = carry_out(tmp_path / "watched", run)
    assert capsys.readouterr().err.count("Bad failed in scalars and is called no more: RuntimeError: no network") == 1
    assert values(watched) == values(plain) and (watched.path / "mine.jsonl").exists()


def test_a_resumed_run_hides_the_events_of_the_steps_that_it_repeats(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = varied(tiny_run(steps=60), evaluation={"every": 20}).model_copy(update={"checkpoint_every": 1000})
    choose_watchers(["tensorboard"])
    folder = RunFolder.create(tmp_path, run.id, run.to_dict())
    first = watchers.build(chosen_watchers())
    first.start(run, folder.path, 0)
    first.scalars(30, {"loss": -1.0})
    first.scalars(0, {"loss": -2.0})
    first.end(finished=False)
    (written,) = (folder.path / "tensorboard").iterdir()  # files are read by the second in their names, and real attempts are seconds apart
    prefix, second, rest = re.fullmatch(r"(events\.out\.tfevents\.)(\d+)(\..*)", written.name).groups()
    written.rename(written.with_name(f"{prefix}{int(second) - 10}{rest}"))
    carry_out(tmp_path, run)
    events = EventAccumulator(str(folder.path / "tensorboard")).Reload()
    losses = {event.step: event.value for event in events.Scalars("loss")}
    assert losses[0] == -2.0 and -1.0 not in losses.values() and {1, 50} <= losses.keys()
    recorded = {step: value for step, name, final, value in values(folder) if name == "w2" and not final}
    assert {event.step: event.value for event in events.Scalars("w2")} == pytest.approx(recorded)
    assert [event.step for event in events.Scalars("final/w2")] == [60]


def test_weights_and_biases_offline(tmp_path):
    pytest.importorskip("wandb")
    choose_watchers(["wandb"])
    run = tiny_run(steps=20)
    folder = carry_out(tmp_path, run)
    (written,) = folder.path.glob("wandb/offline-run-*/*.wandb")
    assert written.stat().st_size > 1000 and run.id in written.name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tensorbord", "tensorboard"),
        ("none.py:X", "no such file"),
        ("{own}:Other", "Mine"),
        ("{own}", "FILE.py:CLASS"),
        ("{bad}:X", "Python"),
    ],
)
def test_what_is_no_watcher_is_one_message(own, tmp_path, capsys, text, said):
    (tmp_path / "bad.py").write_text("class X(:")
    text = text.format(own=own, bad=tmp_path / "bad.py")
    assert main(["sweep", "table1", "--scale", "toy", "--log", text, "--results", str(tmp_path / "results")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "results").exists()


def test_a_package_that_is_missing_is_named_before_anything_starts(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["sweep", "table1", "--scale", "toy", "--log", "wandb"]) == 2
    assert "pip install 'consistency-harness[wandb]'" in capsys.readouterr().err


def test_code_that_was_edited_or_is_not_trusted_is_not_executed(own, monkeypatch):
    choose_watchers([f"{own}:Mine"])
    own.write_text(OWN + "raise SystemExit")
    with pytest.raises(HarnessError, match="edited"):
        watchers.build(chosen_watchers())
    own.write_text(OWN)
    monkeypatch.setenv("HARNESS_TRUST", "")
    with pytest.raises(HarnessError, match="not trusted"):
        watchers.build(chosen_watchers())
    monkeypatch.setenv(VARIABLE, "[1")
    with pytest.raises(HarnessError, match="not a list"):
        chosen_watchers()


def test_nothing_is_imported_unless_asked_for():
    script = (
        "import sys; from harness.training import watchers; watchers.build([]); print([*{'wandb', 'tensorboard'} & sys.modules.keys()])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_jobs_of_a_sweep_are_watched(own, tmp_path):
    arguments = ["--scale", "toy", "--seeds", "1", "--set", "train.steps=20", "--set", "evaluation.samples=20", "--executor", "inline"]
    assert main(["sweep", "table1", *arguments, "--device", "cpu", "--quiet", "--log", f"{own}:Mine", "--results", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("runs/*/mine.jsonl"))) == 3
