"""The Makefile: every experiment is a target under every spelling, each calls one command, and a path with a space is no obstacle."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.commands.reproduce import order
from harness.config import experiments

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))


def make(*arguments: str, cwd: Path = ROOT) -> str:
    """What make would run, or prints; fails the test when make fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "SCALE", "EXECUTOR", "SWEEP"))}
    done = subprocess.run(["make", *arguments], cwd=cwd, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_is_a_target_under_every_spelling(name):
    spellings = {name, name.replace("_", "-")}
    targets = sorted(spellings | {f"reproduce-{spelling}" for spelling in spellings})
    lines = [line for line in make("-n", *targets).splitlines() if "harness reproduce" in line]
    assert len(lines) == len(targets)
    assert {line.split()[-1].replace("-", "_") for line in lines} == {name}


def test_options_reach_every_experiment_and_all():
    options = "--workers 2 --policy retry-failed --seeds 2"
    printed = make("-n", "reproduce-table1", "figure1", "reproduce-all", "SCALE=toy", "EXECUTOR=local", f"SWEEP_ARGS={options}")
    lines = [line for line in printed.splitlines() if "harness reproduce" in line]
    assert [line.split()[-7] for line in lines] == ["table1", "figure1", "all"]
    for line in lines:
        assert line.endswith(options) and "--scale toy" in line and "--executor local" in line


def test_the_report_takes_every_scale_unless_one_is_named():
    assert "--scale" not in make("-n", "report").splitlines()[-1]
    assert "--scale toy" in make("-n", "report", "SCALE=toy").splitlines()[-1]


def test_help_lists_every_target(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copytree(ROOT / "experiments", folder / "experiments", ignore=shutil.ignore_patterns("__pycache__"))
    listed = {line.split()[0] for line in make("help", cwd=folder).splitlines()}
    assert listed >= {"help", "setup", "test", "lint", "wheel", "reproduce-all", "report", "bench", *NAMES}


def test_targets_run_in_a_folder_whose_path_has_a_space(tmp_path):
    folder = tmp_path / "a folder"
    (folder / ".venv" / "bin").mkdir(parents=True)
    shutil.copytree(ROOT / "experiments", folder / "experiments", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    (folder / ".venv" / "bin" / "harness").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (folder / ".venv" / "bin" / "harness").chmod(0o755)
    (folder / ".venv" / ".ready").touch()
    printed = make("table1", "SWEEP_ARGS=--set 'train.betas=[0.9, 0.99]'", cwd=folder)
    assert printed.splitlines()[-3:] == ["table1", "--set", "train.betas=[0.9, 0.99]"]


def test_all_is_every_experiment_of_the_project(monkeypatch):
    monkeypatch.setenv("HARNESS_EXPERIMENTS", str(ROOT / "experiments"))
    assert sorted(order()) == experiments.names() == NAMES
