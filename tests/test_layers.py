"""The import layers: who may import whom, and what starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_no_import_runs_back_up():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "modules",
    [
        "harness.config.run, harness.config.overrides, harness.config.presets",
        "harness.store.runs, harness.config.experiments, harness.cli, harness.sweep.plan",
        "harness.report, harness.reporting.page, harness.reporting.publish, harness.reporting.why",
    ],
)
def test_these_start_without_torch(modules):
    code = f"import sys, {modules}; assert 'torch' not in sys.modules, 'torch was imported'"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.py")), ids=lambda path: path.stem)
def test_experiments_declare_runs_and_import_nothing_else_of_the_harness(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {f"harness.{alias.name}" for alias in node.names} if node.module == "harness" else {node.module}
    foreign = {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names}
    assert foreign <= {"harness.config", "harness.config.parts", "harness.config.run"}


def test_no_file_of_the_harness_is_longer_than_400_lines():
    long = {str(path): lines for path in (ROOT / "harness").rglob("*.py") if (lines := len(path.read_text().splitlines())) > 400}
    assert not long


def test_no_module_hides_one_of_the_standard_library():
    names = {path.stem for path in (ROOT / "harness").glob("*.py")} | {path.name for path in (ROOT / "harness").iterdir() if path.is_dir()}
    assert not names & set(sys.stdlib_module_names)
