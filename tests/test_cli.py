"""The command line: messages, exit codes, help, refused options, and one real sweep."""

from __future__ import annotations

import json
import platform
import re
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from sweep_support import ROOT, TINY, harness, toy_run, wait_for

from harness import cli
from harness.commands.config import keys
from harness.config import presets
from harness.config.parts import GeneratorAugmented
from harness.store.runs import RunFolder, State, Store


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "results"))
    return Store()


@pytest.fixture
def experiments(tmp_path, monkeypatch):
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "cells.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\nfrom sweep_support import toy_run\n"
        "SEEDS = 1\ndef runs(scale, seeds):\n    return [toy_run(seed) for seed in seeds]\n"
    )
    monkeypatch.setenv("HARNESS_EXPERIMENTS", str(folder))
    return folder


def folder_of(store: Store, run) -> RunFolder:
    return RunFolder.create(store.root, run.id, run.to_dict())


@pytest.mark.parametrize(
    ("arguments", "close"),
    [
        (["staus"], "status"),
        (["plan", "cels"], "cells"),
        (["plan", "cells", "--sclae", "toy"], "--scale"),
        (["plan", "cells", "--scale", "digit"], "digits"),
        (["plan", "cells", "--scale", "toy", "--set", "train.lrr=1"], "lr"),
        (["sweep", "cells", "--policy", "forced"], "force"),
        (["sweep", "cells", "--executor", "locl"], "local"),
        (["sweep", "cells", "--workers", "two"], "harness sweep --help"),
        (["plan"], "harness plan --help"),
        (["help", "staus"], "status"),
        (["sweep", "cells", "extra"], "harness sweep --help"),
        (["sweep", "cells", "--scale", "toy", "--quiet", "--workers", "0"], "1 to 10000"),
        (["config", "train.lrr"], "train.lr"),
        (["why", "cells", "digit", "ic", "fid"], "digits"),
        (["reproduce", "cels", "--scale", "toy"], "cells"),
    ],
)
def test_bad_input_is_one_message_with_the_nearest_choice_and_exit_code_2(store, experiments, capsys, arguments, close):
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "Traceback" not in printed.err and close in printed.err


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["report", "table1", "--compare", "toy", "digits"], "experiment"),
        (["report", "--compare", "toy", "digits", "--scale", "toy"], "--scale"),
        (["report", "--compare", "toy", "digits", "--tensorboard"], "--tensorboard"),
        (["report", "table1", "--tensorboard"], "experiment"),
        (["report", "--tensorboard", "--seeds", "3"], "--seeds"),
        (["report", "--set", "train.lr=1"], "--set"),
        (["report", "--scale", "toy", "--coupling", "a.py:b"], "--coupling"),
        (["measure", "figure1", "--what", "proxy"], "--what"),
        (["measure", "eight", "--scale", "toy"], "--scale"),
        (["status", "--scale", "toy"], "--scale"),
        (["run", "eight", "--set", "train.lr=1"], "--set"),
        (["sweep", "cells", "--scale", "toy", "--executor", "inline", "--workers", "2"], "--workers"),
        (["sweep", "cells", "--scale", "toy", "--executor", "local", "--no-wait"], "--no-wait"),
        (["reproduce", "cells", "--scale", "toy", "--executor", "local", "--site", "site.toml"], "--site"),
    ],
)
def test_options_that_do_not_apply_are_refused(store, experiments, capsys, arguments, option):
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and option in printed.err
    assert not store.root.exists()


@pytest.mark.parametrize("arguments", [[], ["help"], ["--help"]])
def test_help_lists_every_command(capsys, arguments):
    if arguments == ["--help"]:
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 0
    else:
        assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    for command in ("reproduce", "plan", "sweep", "status", "report", "why", "publish", "config", "help"):
        assert re.search(rf"^    {command}\b", printed, re.MULTILINE)


def test_help_of_a_command(capsys):
    assert cli.main(["help", "reproduce"]) == 0
    printed = capsys.readouterr().out
    for option in ("--scale", "--seeds", "--set", "--coupling", "--results", "--policy", "--device", "--executor", "--workers", "--site"):
        assert option in printed
    assert "--no-wait" in printed


def test_version_names_the_package_python_and_torch(capsys):
    assert cli.main(["--version"]) == 0
    printed = capsys.readouterr().out
    for package in ("consistency-harness", "torch"):
        assert metadata.version(package) in printed
    assert platform.python_version() in printed


def test_dashes_stand_for_underscores_in_experiments(store, capsys):
    assert cli.main(["plan", "sweep-mu", "--scale", "toy"]) == 0
    assert capsys.readouterr().out.startswith("sweep_mu: 36 runs")


def test_config_lists_every_key_of_a_run(capsys):
    assert cli.main(["config"]) == 0
    printed = capsys.readouterr().out
    run = presets.make("paper", "cifar10", GeneratorAugmented(), 0).to_dict()
    assert run["data"].pop("custom") is None and "\ndata.custom.sha256 " in printed  # a part of a part, as `init` is a part
    for name, value in (run | {"init": {"kind": None, "ref": None}}).items():
        for key in [f"{name}.{part}" for part in value] if isinstance(value, dict) else [name]:
            assert key == "format" or f"\n{key} " in printed
    assert all(key.meaning for key in keys())


def test_config_of_one_key(capsys):
    assert cli.main(["config", "train.lr"]) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[0] == "train.lr" and row[-1] == "0.0001" and "float" in row
    assert cli.main(["config", "network.dropout"]) == 0
    assert "[0.3, 0.3, 0.3]" in capsys.readouterr().out, "the paper's value"
    assert cli.main(["config", "coupling"]) == 0
    printed = capsys.readouterr().out
    assert "coupling.mu" in printed and "coupling.scope" in printed and "train.lr " not in printed


def test_plan_and_status_start_without_torch(store, experiments):
    folder_of(store, toy_run(0)).write_result({"fid": 1.0})
    for arguments in (["plan", "cells", "--scale", "toy"], ["status"], ["status", "cells", "--scale", "toy"]):
        code = f"import sys; from harness.cli import main; assert main({arguments!r}) == 0; sys.exit(3 * ('torch' in sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
        assert toy_run(0).id in done.stdout


def test_a_plan_of_the_paper_scale_tells_what_is_missing(store, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    assert cli.main(["plan", "table1", "--scale", "paper", "--seeds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "cifar10 is not prepared" in printed and "no Inception weights" in printed and "harness doctor table1 --scale paper" in printed
    assert cli.main(["sweep", "table1", "--scale", "paper", "--seeds", "1"]) == 2
    assert "cifar10 is not prepared" in capsys.readouterr().err and not store.runs.exists(), "nothing is started in vain"


def test_prepared_data_may_lie_elsewhere(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("harness.data.prepare.prepare", lambda *args, **options: seen.append((args, options)) or "there")
    assert cli.main(["prepare", "cifar10", "--from", "a.tar.gz", "--root", str(tmp_path)]) == 0 and capsys.readouterr().out == "there\n"
    assert cli.main(["prepare", "cifar10", "--from", "a.tar.gz", "--partial"]) == 0
    (chosen, default) = seen
    assert chosen == (("cifar10", Path("a.tar.gz").resolve(), tmp_path), {"recipe": None, "official": True, "skip_damaged": 0})
    assert default == (("cifar10", Path("a.tar.gz").resolve(), None), {"recipe": None, "official": False, "skip_damaged": 0})


def test_results_may_lie_elsewhere(tmp_path, experiments, capsys, monkeypatch):
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "a"))
    run = toy_run(0)
    RunFolder.create(tmp_path / "b", run.id, run.to_dict()).write_result({})
    assert cli.main(["status", "--results", str(tmp_path / "b")]) == 0
    assert run.id in capsys.readouterr().out


def test_clear_asks_and_leaves_busy_runs_alone(store, capsys, monkeypatch):
    old, busy = toy_run(0), toy_run(1)
    folder_of(store, old).write_result({})
    assert cli.main(["clear", old.id]) == 2 and "--yes" in capsys.readouterr().err and store.folder(old.id).path.exists()
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert cli.main(["clear", old.id]) == 1 and store.folder(old.id).path.exists()
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert cli.main(["clear", old.id]) == 0 and not store.folder(old.id).path.exists()
    with folder_of(store, busy).acquire():
        assert cli.main(["clear", busy.id, "--yes"]) == 76
    assert "another process works" in capsys.readouterr().err and store.folder(busy.id).path.exists()
    assert cli.main(["clear", busy.id[:-3], "--yes"]) == 0 and list(store.runs.iterdir()) == []


def test_run_finds_a_cell_of_an_experiment_by_its_beginning(store, experiments, monkeypatch):
    seen = []
    monkeypatch.setattr("harness.training.job.main", lambda arguments: seen.append(arguments) or 0)
    run = toy_run(0)
    assert cli.main(["run", run.slug, "--experiment", "cells", "--scale", "toy", "--device", "cpu"]) == 0
    assert seen == [[str(store.folder(run.id).path), "--device", "cpu"]] and store.folder(run.id).config() == run.to_dict()
    assert cli.main(["run", run.digest[:6], "--device", "cpu"]) == 0 and cli.main(["run", str(store.folder(run.id).path)]) == 0
    assert cli.main(["run", "other", "--experiment", "cells", "--scale", "toy"]) == 2


def test_ctrl_c_is_130(monkeypatch, capsys, store):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.commands.sweeps.summaries_of", interrupt)
    assert cli.main(["status"]) == 130 and "interrupted" in capsys.readouterr().err


def test_a_closed_pipe_ends_quietly(store):
    for seed in range(300):
        run = toy_run(seed)
        path = store.runs / run.id
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(run.to_dict()))
    done = subprocess.run(f"{sys.executable} -m harness status | head -1", shell=True, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("300 runs")


def test_a_real_sweep_from_plan_to_done(store):
    """Table 1 at the toy scale, 30 steps: interrupted, continued, done, done already; as the same runs alone in a fresh process."""
    options = ["sweep", "table1", "--seeds", "1", *TINY, "--executor", "local"]
    command = [sys.executable, "-m", "harness", *options]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    wait_for(lambda: any(folder.state() is State.RUNNING for folder in store.folders()), 200)
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=200)
    assert first.returncode == 130 and "start" in output, output
    second = harness(*options)
    assert second.returncode == 0, second.stdout + second.stderr
    assert len(store.folders()) == 4 and all(folder.state() is State.DONE for folder in store.folders()), "three runs and the baselines"
    attempts = [len(folder.attempts()) for folder in store.folders()]
    third = harness(*options)
    assert third.returncode == 0 and "nothing to do" in third.stdout
    assert [len(folder.attempts()) for folder in store.folders()] == attempts

    folder = next(folder for folder in store.folders() if "-gc-" in folder.id)
    alone = RunFolder.create(store.root / "alone", folder.id, folder.config())
    done = subprocess.run([sys.executable, "-m", "harness.training.job", str(alone.path)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    weights = [tensors(path) for path in (folder.path, alone.path)]
    assert weights[0] and weights[0].keys() == weights[1].keys()
    assert all((weights[0][key] == weights[1][key]).all() for key in weights[0]), "bit for bit"


def tensors(path: Path) -> dict:
    """All tensors of the last checkpoint, by place."""
    import torch

    collected = {}

    def collect(value: object, place: str) -> None:
        if isinstance(value, torch.Tensor):
            collected[place] = value
        elif isinstance(value, dict):
            for key, part in value.items():
                collect(part, f"{place}/{key}")

    collect(torch.load(sorted((path / "checkpoints").glob("*.pt"))[-1], weights_only=True), "")
    return collected
