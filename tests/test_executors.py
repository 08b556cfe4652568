"""Which launcher `auto` means: a results folder stays with the one that its first sweep used."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from sweep_support import toy_run

from harness.errors import HarnessError, UnknownName
from harness.store.runs import Store
from harness.sweep import executors
from harness.sweep.executors import choose_executor, record_executor, slurm_answers
from harness.sweep.launch import LaunchOptions, launch
from harness.sweep.plan import make_plan


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def slurm(monkeypatch):
    """slurm(True) makes SLURM answer; it does not at first."""

    def answer(value: bool) -> None:
        monkeypatch.setattr(executors, "slurm_answers", lambda: value)

    answer(False)
    return answer


def test_where_nothing_has_begun_slurm_comes_first(store, slurm):
    assert choose_executor("auto", store).executor == "local"
    slurm(True)
    assert choose_executor("auto", store).executor == "slurm"
    assert choose_executor("inline", store).executor == "inline"


def test_a_sweep_that_has_begun_keeps_its_executor_when_slurm_begins_to_answer(store, slurm):
    """Two sweeps of one results folder, all runs of the first done: its record decides, because a person chose it."""
    console = Console(file=io.StringIO(), width=250)
    asked = LaunchOptions(executor="local", entry="fake_job:main", device="cpu")
    assert launch(make_plan([toy_run(0)], store), store, asked, console).exit_code == 0
    slurm(True)
    choice = choose_executor("auto", store)
    assert choice.executor == "local" and executors.RECORD in choice.reason
    assert launch(make_plan([toy_run(1)], store), store, LaunchOptions(entry="fake_job:main", device="cpu"), console).exit_code == 0
    lines = [line for line in console.file.getvalue().splitlines() if line.startswith("executor: ")]
    assert len(lines) == 2 and all("local" in line for line in lines) and executors.RECORD in lines[1]


def test_nothing_trains_on_a_login_node_unless_asked(store, slurm):
    """Earlier sweeps trained where no SLURM answered; the folder is then used where it does."""
    record_executor(choose_executor("auto", store), store)
    assert choose_executor("auto", store).executor == "local"
    slurm(True)
    with pytest.raises(HarnessError) as caught:
        choose_executor("auto", store)
    assert "local" in caught.value.details["nearest"] and "slurm" in caught.value.details["expected"]
    record_executor(choose_executor("local", store), store)
    assert choose_executor("auto", store).executor == "local"


def test_a_recorded_slurm_that_does_not_answer_is_refused(store, slurm):
    slurm(True)
    record_executor(choose_executor("auto", store), store)
    slurm(False)
    with pytest.raises(HarnessError) as caught:
        choose_executor("auto", store)
    assert executors.RECORD in caught.value.details["found"] and "--executor local" in caught.value.details["nearest"]


def test_an_explicit_executor_overrides_and_is_recorded_but_for_inline(store, slurm):
    slurm(True)
    record_executor(choose_executor("auto", store), store)
    record_executor(choose_executor("inline", store), store)
    assert choose_executor("auto", store).executor == "slurm"
    record_executor(choose_executor("local", store), store)
    assert choose_executor("auto", store).executor == "local"
    assert json.loads((store.root / executors.RECORD).read_text())["executor"] == "local"


@pytest.mark.parametrize("damage", ["{", "[]", '{"executor": "lokal"}'])
def test_a_damaged_record_counts_as_none(store, slurm, damage):
    store.root.mkdir()
    (store.root / executors.RECORD).write_text(damage)
    assert choose_executor("auto", store).executor == "local"
    slurm(True)
    assert choose_executor("auto", store).executor == "slurm"


def test_an_unknown_executor_is_named_with_the_nearest(store):
    with pytest.raises(UnknownName) as caught:
        launch(make_plan([toy_run(0)], store), store, LaunchOptions(executor="locl"), Console(file=io.StringIO()))
    assert caught.value.details["nearest"] == "local" and not store.runs.exists()


def test_slurm_answers_only_with_a_cluster_behind_sbatch(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not slurm_answers()
    for name, text in (("sbatch", ""), ("sinfo", "exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    assert not slurm_answers()
    (tmp_path / "sinfo").write_text("#!/bin/sh\necho debug up\n")
    assert slurm_answers()
    (tmp_path / "sinfo").unlink()
    assert not slurm_answers()
    (tmp_path / "squeue").write_text("#!/bin/sh\n")
    (tmp_path / "squeue").chmod(0o755)
    assert slurm_answers()
