"""The wheel, installed into an environment of its own, runs in an empty folder: experiments and paper values travel with it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from sweep_support import ROOT, TINY

from harness.store import provenance


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    before = set(ROOT.iterdir())
    offline = ["--no-build-isolation"] if importlib.util.find_spec("setuptools") else []
    options = ["--no-deps", "--wheel-dir", str(folder), *offline]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", *options, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert set(ROOT.iterdir()) == before, "a build leaves nothing in the checkout"
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin folder of a new environment with the wheel, which sees the packages of this one but not its harness."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    paths = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", vars=paths))
    here = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (packages / "packages-of-the-tests.pth").write_text("\n".join(sorted(here)) + "\n")
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run([*command, "--disable-pip-version-check"], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def run(installed: Path, folder: Path, *command: str) -> str:
    """The output of a command of the environment; fails the test when it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HARNESS_", "PYTHONPATH"))}
    done = subprocess.run(
        [str(installed / command[0]), *command[1:]], cwd=folder, capture_output=True, text=True, env=environment, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_everything_that_is_read_at_run_time_is_in_the_wheel(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "harness").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert files <= inside
    assert {f"harness/installed_experiments/{path.name}" for path in (ROOT / "experiments").glob("*.py")} <= inside


def test_an_installed_package_inside_another_checkout_has_no_commit(tmp_path):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet"], [*identity, "commit", "--quiet", "--allow-empty", "--message", "another project"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    assert provenance.code(tmp_path)["commit"] is not None
    packages = tmp_path / "environment" / "site-packages"
    packages.mkdir(parents=True)
    assert provenance.code(packages) == {"commit": None, "dirty": None}


def test_an_installed_wheel_plans_reproduces_and_reports_in_the_current_folder(installed, tmp_path):
    printed = run(installed, tmp_path, "python", "-c", "import harness; print(harness.__file__)")
    assert Path(printed.strip()).is_relative_to(installed.parent)
    assert "table1" in run(installed, tmp_path, "harness", "plan", "table1", *TINY)
    assert not (tmp_path / "results").exists(), "a plan writes nothing"
    options = [*TINY, "--seeds", "1", "--executor", "local", "--workers", "2"]
    reproduced = run(installed, tmp_path, "harness", "reproduce", "table1", *options)
    assert "iCT-GC" in reproduced
    assert len(list((tmp_path / "results" / "runs").glob("*/result.json"))) >= 3
    checked = run(installed, tmp_path, "harness", "doctor", "table1", "--scale", "toy")
    assert "requirements.lock" not in checked and "make setup" not in checked
    reported = run(installed, tmp_path, "harness", "report")
    assert (tmp_path / "results" / "report.html").is_file() and str(tmp_path / "results") in reported
