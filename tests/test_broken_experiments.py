"""Experiment files and couplings that cannot be used: one message with file and line; nothing that is no regular file is opened."""

from __future__ import annotations

import os

import pytest

from harness.cli import main
from harness.config import experiments

RUNS = "def runs(scale, seeds):\n    return "
BROKEN = {
    "import.py": ("import nothing_of_this_name\n", "import.py:1"),
    "syntax.py": ("x = 1\ndef runs(:\n", "syntax.py:2"),
    "zeros.py": ("\0", "zeros.py"),
    "exit.py": ("import sys\nsys.exit(0)\n", "exit.py:2"),
    "name.py": (RUNS + "undefined\n", "name.py:2"),
    "none.py": (RUNS + "None\n", "none.py"),
    "words.py": (RUNS + "['a run']\n", "words.py"),
    "arguments.py": ("def runs():\n    return []\n", "arguments.py"),
    "seeds.py": ("SEEDS = 'three'\n" + RUNS + "[]\n", "seeds.py: SEEDS"),
    "many.py": ("SEEDS = 10**9\n" + RUNS + "[]\n", "many.py: SEEDS"),
    "leaves.py": ("def runs(scale, seeds):\n    raise SystemExit(0)\n", "leaves.py:2"),
    "range.py": (
        "from harness.config import presets\n" + RUNS + "[presets.make('toy', 'eight-gaussians', presets.MAIN[0], -5)]\n",
        "range.py:3",
    ),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_EXPERIMENTS", str(tmp_path))
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "results"))
    return tmp_path


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_experiment_is_one_message_with_its_line(folder, capsys, name):
    text, where = BROKEN[name]
    (folder / name).write_text(text)
    assert main(["plan", name.removesuffix(".py"), "--scale", "toy"]) == 2
    message = capsys.readouterr().err
    assert f"{folder}/{where}" in message and "Traceback" not in message and len(message) < 1000


def test_only_regular_files_are_experiments(folder):
    os.mkfifo(folder / "pipe.py")
    (folder / "device.py").symlink_to("/dev/zero")
    (folder / "loop.py").symlink_to("loop.py")
    (folder / "folder.py").mkdir()
    (folder / "good.py").write_text(RUNS + "[]\n")
    assert experiments.names() == ["good"]


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "huge", "zeros", "deep", "missing"])
def test_a_coupling_that_is_no_source_file_is_refused(tmp_path, capsys, kind):
    path = tmp_path / "mine.py"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "loop":
            path.symlink_to(path.name)
        case "huge":
            with path.open("wb") as file:
                file.truncate(50 << 30)  # takes no space
        case "zeros":
            path.write_bytes(b"\0")
        case "deep":
            path.write_text("x = " + "(" * 5000 + ")" * 5000)
    assert main(["plan", "table1", "--scale", "toy", "--coupling", f"{path}:f", "--results", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert str(path) in message and "Traceback" not in message
