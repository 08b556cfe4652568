"""The fingerprint of the code: what changes it, what does not, the same from a commit, and how quickly it is computed."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.locations import PACKAGE
from harness.store import fingerprint, git, provenance
from harness.store.made_by import MadeBy, made_by, summarised

SOURCE = '''
"""Noise."""
from dataclasses import dataclass

@dataclass
class Levels:
    """Two levels."""
    low: float
    high: float = 80.0

def loss(x: list, c: float = 0.5) -> float:
    """The loss (equation 4)."""
    # scaled
    return sum(x) * c
'''
SAME = [
    ('"""Noise."""', '"""Levels of noise, from low to high."""'),
    ('    """The loss (equation 4)."""\n', ""),
    ("    # scaled\n", "    # scaled by c, since the weight grows\n\n"),
    ("(x: list, c: float = 0.5) -> float", "(x, c: int = 0.5)"),
    ("return sum(x) * c", "return (\n        sum(x) * c\n    )"),
    ("low: float", "low: int"),
]
OTHER = [
    ("c: float = 0.5", "c: float = 0.25"),
    ("sum(x) * c", "c * sum(x)"),
    ("    low: float\n    high: float = 80.0", "    high: float = 80.0\n    low: float = 0"),
    ("    low: float\n", ""),
    ("return sum(x) * c", "x = x\n    return sum(x) * c"),
    ("80.0", "80"),
]


def of(source: str, path: str = "core/loss.py") -> dict[str, str]:
    return dict(fingerprint.of_files({path: source.encode(), "metrics/weights/digits.pt": b"\x00\x01"}))


@pytest.mark.parametrize("old,new", SAME)
def test_wording_types_and_formatting_do_not_change_it(old, new):
    assert old in SOURCE and of(SOURCE.replace(old, new)) == of(SOURCE)


@pytest.mark.parametrize("old,new", OTHER)
def test_what_the_code_does_changes_the_part_that_it_is_in(old, new):
    assert old in SOURCE
    assert fingerprint.differing(of(SOURCE.replace(old, new)), of(SOURCE)) == ("core",)


def test_weights_and_names_of_files_count(tmp_path):
    changed = dict(fingerprint.of_files({"core/loss.py": SOURCE.encode(), "metrics/weights/digits.pt": b"\x00\x02"}))
    assert fingerprint.differing(changed, of(SOURCE)) == ("metrics",)
    assert fingerprint.differing(of(SOURCE, "core/losses.py"), of(SOURCE)) == ("core",)
    assert of(SOURCE, "reporting/page.py") == of("", "reporting/page.py"), "reports compute no result"
    assert fingerprint.combined(changed) != fingerprint.combined(of(SOURCE))


def test_every_module_that_training_imports_counts_or_is_known_not_to_matter():
    """The modules of the package that core, data, metrics and training import, directly or not."""
    without_effect = {"config", "store", "errors", "locations", "console"}  # see the docstring of harness.store.fingerprint
    counted = {place for places in fingerprint.PARTS.values() for place in places}
    folders = [name for name in counted if (PACKAGE / name).is_dir()]
    imported = set()
    for path in [file for folder in folders for file in (PACKAGE / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("harness"):
                imported |= {f"{node.module}.{name.name}".split(".")[1] for name in node.names}
    assert folders and imported <= without_effect | set(folders)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A git repository with a copy of the code that counts, committed."""
    root = tmp_path / "checkout"
    for places in fingerprint.PARTS.values():
        for place in places:
            source, target = PACKAGE / place, root / PACKAGE.name / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__")) if source.is_dir() else shutil.copy(
                source, target
            )
    run = lambda *words: subprocess.run(["git", "-C", root, *words], check=True, capture_output=True, text=True).stdout  # noqa: E731
    run("init", "-q")
    run("add", ".")
    run("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "code")
    return root


def head(root: Path) -> str:
    return subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_a_commit_has_the_fingerprint_of_its_code_and_no_code_has_none(checkout, tmp_path):
    commit = head(checkout)
    assert fingerprint.of_commit(commit, checkout) == fingerprint.current()
    assert fingerprint.parts_of_commit(commit, checkout) == fingerprint.parts()
    assert fingerprint.of_commit("0" * 40, checkout) is None
    assert fingerprint.of_commit(commit, tmp_path) is None, "not a checkout"
    assert git.commit_exists(commit, checkout) and not git.commit_exists("0" * 40, checkout)
    assert git.file_of_commit(commit, "harness/core/schedules.py", checkout) == (PACKAGE / "core" / "schedules.py").read_bytes()


def test_uncommitted_and_untracked_code_is_noticed(checkout):
    provenance.code.cache_clear()
    assert provenance.code(checkout) == {"commit": head(checkout), "dirty": None}
    seen = set()
    for name, text in (("core/schedules.py", "x = 1\n"), ("core/new.py", "x = 1\n"), ("core/new.py", "x = 2\n")):
        (checkout / "harness" / name).write_text(text)
        provenance.code.cache_clear()
        seen.add(provenance.code(checkout)["dirty"])
    provenance.code.cache_clear()
    assert len(seen) == 3 and None not in seen


def test_git_that_cannot_answer_is_said(tmp_path, monkeypatch):
    """An archive without .git, a machine without git, and a folder of another user, which git calls dubious ownership."""
    monkeypatch.setattr(git, "unavailable", git.unavailable.__wrapped__)
    assert str(tmp_path) in git.unavailable(tmp_path)
    (tmp_path / ".git").mkdir()
    script = tmp_path / "bin" / "git"
    script.parent.mkdir()
    words = f"fatal: detected dubious ownership in repository\\n\\n\\tgit config --global --add safe.directory {tmp_path}"
    script.write_text(f"#!/bin/sh\nprintf '{words}\\n' >&2\nexit 128\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent))
    reason = git.unavailable(tmp_path)
    assert "dubious ownership" in reason and f"git config --global --add safe.directory {tmp_path}" in reason
    script.unlink()
    assert "git" in git.unavailable(tmp_path) and "dubious" not in git.unavailable(tmp_path)
    assert git.git("rev-parse", "HEAD", root=tmp_path) is None


def test_an_attempt_without_a_commit_says_why_and_has_the_fingerprint(monkeypatch):
    monkeypatch.setattr(provenance, "code", lambda: {"commit": None, "dirty": None})
    monkeypatch.setattr(provenance, "unavailable", lambda: "git is not installed")
    attempt = provenance.provenance("cpu")
    assert attempt["commit"] is None and attempt["commit_unknown"] == "git is not installed"
    assert attempt["fingerprint"] == fingerprint.current() and attempt["parts"] == fingerprint.parts()


def test_attempts_name_the_experiment_that_asked(tmp_path):
    path = tmp_path / "table9.py"
    path.write_text("x = 1")
    assert provenance.provenance("cpu")["experiment"] is None
    with provenance.asking(path):
        asked = provenance.provenance("cpu")["experiment"]
    assert asked["name"] == "table9" and len(asked["sha256"]) == 12
    assert provenance.EXPERIMENT not in os.environ


def test_it_is_computed_in_a_moment_and_is_the_same_in_another_process():
    code = (
        "import time; from harness.store import fingerprint; t = time.process_time(); print(fingerprint.current(), time.process_time() - t)"
    )
    times = []
    for _ in range(3):
        ended = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
        name, seconds = ended.stdout.split()
        times.append(float(seconds))
        assert name == fingerprint.current()
    assert min(times) < 0.3
    started = time.perf_counter()
    for _ in range(1000):
        fingerprint.current()
    assert time.perf_counter() - started < 0.3, "plan and status ask for each of 1,000 runs"


# --- by which code a run was made


def attempt(**changes) -> dict:
    return {"commit": None, "dirty": None, "parts": dict(fingerprint.parts()), **changes}


def test_the_parts_that_differ_are_named():
    other = {**fingerprint.parts(), "core": "0" * 12, "metrics": "1" * 12}
    assert made_by([attempt()]) == MadeBy() and made_by([attempt()]).note == ""
    both = made_by([attempt(), attempt(parts=other)])
    assert both.differing == ("core", "metrics") and both.other and "core, metrics" in both.note
    assert made_by([attempt(parts=other)], parts=("data",)).note == ""
    verified = made_by([attempt(parts=other)], equal=True)
    assert not verified.other and "verified equal" in verified.note
    assert made_by([attempt(parts=other)], equal=False).other


def test_runs_of_earlier_versions_have_the_code_of_their_commit(checkout, monkeypatch):
    commit = head(checkout)
    of_commit = fingerprint.parts_of_commit
    monkeypatch.setattr(fingerprint, "parts_of_commit", lambda name: of_commit(name, checkout))
    old = {"commit": commit, "dirty": None}
    assert made_by([old]).note == ""
    assert "uncommitted" in made_by([old | {"dirty": "0123456789ab"}]).unknown
    assert "0000000" in made_by([old | {"commit": "0" * 40}]).unknown
    assert made_by([{"commit": None}]).unknown and made_by([]).unknown


def test_one_line_says_how_many_runs_and_how_many_are_verified():
    core, data = MadeBy(("core",)), MadeBy(("data",))
    line = summarised([MadeBy(), core, core, MadeBy(("core",), equal=True), data, MadeBy(unknown="no commit is recorded")])
    parts = line.split("; ")
    assert parts[0].startswith("3 runs") and "core" in parts[0] and "1 of 3" in parts[0]
    assert any("data" in part and part.startswith("1 run ") for part in parts) and any("no commit" in part for part in parts)
    assert summarised([MadeBy()]) == ""
