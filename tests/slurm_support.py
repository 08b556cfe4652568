"""Shared by the tests of the SLURM launcher: a launcher in a thread or in a process of its own, site files, stand-ins for runs.

PYTEST_DONT_REWRITE: a plugin that test modules also import by name; there is no assert in it.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
from rich.console import Console

from harness.store.runs import RunFolder, Store
from harness.sweep import slurm as launcher
from harness.sweep.launch import LaunchOptions, SweepResult, launch
from harness.sweep.plan import make_plan
from harness.sweep.slurm_queue import liveness

ROOT = Path(__file__).parents[1]
ENTRY = "fake_job:main"
PATIENCE = 240
"""Seconds, for machines that are busy with something else."""


@pytest.fixture
def quick_launcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A launcher that checks often, and jobs that find the modules of the tests and their behaviour."""
    for name, seconds in (("POLL_EVERY", 0.2), ("ASK_EVERY", 1.0), ("GRACE", 1.0)):
        monkeypatch.setattr(launcher, name, seconds)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setenv("FAKE_JOBS", str(tmp_path / "jobs.json"))
    monkeypatch.delenv("HARNESS_SITE", raising=False)
    behave(tmp_path, {})


def behave(tmp_path: Path, behaviour: dict) -> None:
    (tmp_path / "jobs.json").write_text(json.dumps(behaviour))


def site(tmp_path: Path, **values) -> str:
    path = tmp_path / f"site-{len(list(tmp_path.glob('site-*')))}.toml"
    path.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in {"time": 5, **values}.items()))
    return str(path)


class Sweep:
    """A launcher at work in a thread, and what it has printed."""

    def __init__(self, store: Store, runs, site: str, policy: str = "default", entry: str = ENTRY, **options) -> None:
        self.file = io.StringIO()
        self.future: Future[SweepResult] = Future()
        plan = make_plan(runs, store, policy, alive=liveness(store))
        chosen = LaunchOptions("slurm", entry=entry, site=site, **options)
        work = (plan, store, chosen, Console(file=self.file, width=250))
        threading.Thread(target=self._work, args=work, daemon=True).start()  # a test that fails leaves it behind

    def _work(self, *work) -> None:
        try:
            self.future.set_result(launch(*work))
        except BaseException as error:
            self.future.set_exception(error)

    @property
    def text(self) -> str:
        return self.file.getvalue()

    def result(self) -> SweepResult:
        return self.future.result(PATIENCE)


def start_launcher(store: Store, seeds: int, steps: int, site: str, before: str = "") -> subprocess.Popen:
    """A launcher in a process of its own. before: code that makes it fail."""
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from rich.console import Console
from sweep_support import toy_run
from harness.store.runs import Store
from harness.sweep import slurm, slurm_submit
from harness.sweep.launch import LaunchOptions, launch
from harness.sweep.plan import make_plan
slurm.POLL_EVERY = 0.2
{before}
store = Store({str(store.root)!r})
plan = make_plan([toy_run(seed, steps={steps}) for seed in range({seeds})], store)
sys.exit(launch(plan, store, LaunchOptions("slurm", entry={ENTRY!r}, site={site!r}), Console(width=250)).exit_code)
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def step_of(folder: RunFolder) -> int:
    return (folder.read_heartbeat() or {}).get("step", 0)


def job_of(folder: RunFolder) -> str:
    return folder.submission()["job_id"]


def begins(folder: RunFolder) -> list[int]:
    return [attempt["step"] for attempt in folder.attempts()]
