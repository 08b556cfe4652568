"""A user's coupling is tried before anything trains, and code from elsewhere runs only if it is trusted."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from train_support import tiny_run

from harness.cli import main
from harness.commands import sweeps
from harness.config.parts import Custom
from harness.config.trust import VARIABLE, is_trusted, trust
from harness.errors import HarnessError
from harness.store.runs import RunFolder, Store
from harness.training import user_couplings

GOOD = "def pairs(x, z, sigma, predict):\n    return x, z.roll(1, 0)\n"
BAD = {
    "too few arguments": "def pairs(x, z):\n    return x, z\n",
    "no such argument": "def pairs(x, z, sigma, predict, temperature):\n    return x, z\n",
    "integers": "def pairs(x, z, sigma, predict):\n    return x.round().int(), z\n",
    "truth values": "def pairs(x, z, sigma, predict):\n    return x, z > 0\n",
    "sigma changed": "def pairs(x, z, sigma, predict):\n    sigma.mul_(2)\n    return x, z\n",
    "exit": "import sys\n\ndef pairs(x, z, sigma, predict):\n    sys.exit(0)\n",
    "exit on import": "import sys\n\nsys.exit(0)\n\ndef pairs(x, z, sigma, predict):\n    return x, z\n",
    "error on import": "import nothing_of_this_name\n\ndef pairs(x, z, sigma, predict):\n    return x, z\n",
    "too many rows predicted": "def pairs(x, z, sigma, predict):\n    return predict(x, sigma[:2], [0]), z\n",
    "not a number": "def pairs(x, z, sigma, predict):\n    return x, z / 0 - z / 0\n",
    "infinite": "def pairs(x, z, sigma, predict):\n    return x / 0, z\n",
    "one tensor": "def pairs(x, z, sigma, predict):\n    return x\n",
}


@pytest.fixture(autouse=True)
def no_trust(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")


def custom(path: Path, text: str) -> Custom:
    path.write_text(text)
    return Custom(source=f"{path}:pairs", sha256=hashlib.sha256(text.encode()).hexdigest())


def test_a_good_coupling_is_called_once_and_passes(tmp_path):
    calls = tmp_path / "calls"
    text = GOOD.replace("    return", f"    open({str(calls)!r}, 'a').write(f'{{tuple(x.shape)}} ')\n    return")
    settings = custom(tmp_path / "mine.py", text)
    trust(settings.sha256)
    user_couplings.try_out(tiny_run(settings))
    assert calls.read_text() == "(4, 2) "


@pytest.mark.parametrize("name", BAD)
def test_a_bad_coupling_is_refused_with_its_file(tmp_path, name):
    settings = custom(tmp_path / "mine.py", BAD[name])
    trust(settings.sha256)
    with pytest.raises(HarnessError) as error:
        user_couplings.try_out(tiny_run(settings))
    assert "mine.py" in error.value.details["where"]


def test_sigma_of_the_loss_is_out_of_reach(tmp_path):
    settings = custom(tmp_path / "mine.py", BAD["sigma changed"])
    trust(settings.sha256)
    sigma = torch.ones(3)
    user_couplings.load_custom(settings)(torch.zeros(3, 2), torch.zeros(3, 2), sigma, None, None)
    assert sigma.tolist() == [1, 1, 1]


def test_an_exit_in_training_is_an_error(tmp_path):
    settings = custom(tmp_path / "mine.py", BAD["exit"])
    trust(settings.sha256)
    with pytest.raises(HarnessError, match="exit"):
        user_couplings.load_custom(settings)(torch.zeros(3, 2), torch.zeros(3, 2), torch.ones(3), None, None)


@pytest.mark.parametrize("name", ["too few arguments", "exit on import"])
def test_a_sweep_with_a_bad_coupling_ends_before_it_trains(tmp_path, capsys, name):
    custom(tmp_path / "mine.py", BAD[name])
    options = ["--scale", "toy", "--seeds", "1", "--results", str(tmp_path / "results"), "--executor", "inline"]
    assert main(["sweep", "table1", *options, "--coupling", f"{tmp_path / 'mine.py'}:pairs"]) == 2
    assert "mine.py" in capsys.readouterr().err and not Store(tmp_path / "results").folders()


ENDS = {"import os; os._exit(0)": "code 0", "while True: pass": "did not end", "raise KeyboardInterrupt": "KeyboardInterrupt"}


@pytest.mark.parametrize("line", ENDS)
def test_a_coupling_that_ends_or_holds_up_its_process_is_refused(tmp_path, monkeypatch, capsys, line):
    monkeypatch.setattr(sweeps, "TRY_FOR", 5 if "while" in line else 300)
    (tmp_path / "mine.py").write_text(f"{line}\n\ndef pairs(x, z, sigma, predict):\n    return x, z\n")
    options = ["--scale", "toy", "--seeds", "1", "--results", str(tmp_path / "results"), "--executor", "inline"]
    assert main(["sweep", "table1", *options, "--coupling", f"{tmp_path / 'mine.py'}:pairs"]) == 2
    assert ENDS[line] in capsys.readouterr().err and not Store(tmp_path / "results").folders()


def test_data_and_noise_of_the_batch_are_out_of_reach(tmp_path):
    """After an out-of-memory error the same batch is coupled again."""
    settings = custom(tmp_path / "mine.py", "def pairs(x, z, sigma, predict):\n    return x.add_(1), z.mul_(2)\n")
    trust(settings.sha256)
    x, z = torch.zeros(3, 2), torch.ones(3, 2)
    new_x, new_z = user_couplings.load_custom(settings)(x, z, torch.ones(3), None, None)
    assert new_x.eq(1).all() and new_z.eq(2).all() and x.eq(0).all() and z.eq(1).all()


@pytest.mark.parametrize("name", ["c.py:é", "c.py:", "c.txt:f", "c.py", "a\nb.py:f"])
def test_a_coupling_that_is_no_file_and_function(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.py").write_text("def é(x, z, sigma, predict):\n    return x, z\n")
    assert main(["plan", "table1", "--scale", "toy", "--coupling", name]) == 2
    assert "--coupling" in capsys.readouterr().err


def run_from_elsewhere(tmp_path: Path) -> tuple[RunFolder, Path]:
    """A run folder whose config names a coupling file that leaves a mark when it is executed."""
    mark = tmp_path / "executed"
    text = f"open({str(mark)!r}, 'w').close()\n" + GOOD
    run = tiny_run(custom(tmp_path / "theirs.py", text))
    return RunFolder.create(tmp_path / "results", run.id, run.to_dict()), mark


def test_a_run_from_elsewhere_executes_nothing_unless_trusted(tmp_path, capsys, monkeypatch):
    folder, mark = run_from_elsewhere(tmp_path)
    assert main(["run", str(folder.path), "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    assert "--trust" in captured.err + captured.out and not mark.exists()
    assert main(["measure", str(folder.path), "--device", "cpu"]) == 2 and not mark.exists()
    assert main(["run", str(folder.path), "--device", "cpu", "--trust"]) == 0
    assert mark.exists() and folder.result() is not None


def test_trust_is_by_content_and_adds_up(monkeypatch):
    assert not is_trusted("a" * 64)
    trust("a" * 64)
    trust("b" * 64)
    assert is_trusted("a" * 64) and is_trusted("b" * 64) and not is_trusted("c" * 64)
    trust("*")
    assert is_trusted("c" * 64)


def test_the_check_of_a_config_is_a_command(tmp_path, capsys):
    settings = custom(tmp_path / "mine.py", BAD["integers"])
    (tmp_path / "config.json").write_text(json.dumps(tiny_run(settings).to_dict()))
    assert user_couplings.main(str(tmp_path / "config.json")) == 2 and "--trust" in capsys.readouterr().err
    trust(settings.sha256)
    assert user_couplings.main(str(tmp_path / "config.json")) == 2 and "int32" in capsys.readouterr().err
