"""`harness reproduce --smoke`: its runs, complete smoke tests, bad input, and that nothing of it reaches results."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from harness import cli
from harness.config import presets
from harness.config.custom_data import custom_set
from harness.config.experiments import expand
from harness.config.parts import BatchOT, Independent
from harness.config.run import varied
from harness.config.selection import Selection
from harness.console import Console
from harness.data import datasets
from harness.data.arrays import read_manifest
from harness.data.catalogue import info, info_of
from harness.data.prepare import prepare_custom
from harness.errors import DamagedFile, HarnessError, MissingFile
from harness.rehearsal import smoke, stand_ins
from harness.rehearsal.short_runs import STEPS, Given, short_runs
from harness.rehearsal.smoke import Options, smoke_test
from harness.reporting import load
from harness.reporting.cells import group_runs
from harness.reporting.publish import publish
from harness.store.runs import State, Store
from harness.sweep.plan import make_plan
from harness.sweep.supervisor import SweepResult
from harness.training import model, trained_runs

SEEDS = (0, 4)


def quiet():
    return Console(quiet=True)


def few_of(runs):
    return frozenset(run.data.name for run in runs if info_of(run.data).needs_inception)


# --- Which runs


@pytest.mark.parametrize(
    ("experiment", "scale"),
    [("table1", "toy"), ("figure4", "digits"), ("longer", "toy"), ("table2", "fashion"), ("scaling", "paper"), ("figure2", "paper")],
)
def test_every_planned_run_is_trained_and_the_table_has_the_same_rows(experiment, scale):
    planned = expand(experiment, scale, (0, 1))
    short = short_runs(planned, Given(few_of(planned), text="smoke test: few steps"))
    assert list(short) == [run.id for run in planned]
    runs = list(short.values())
    assert len({run.id for run in runs}) == len(planned)
    before, after = group_runs(planned, {}, ()), group_runs(runs, {}, ())
    assert [sorted(cell.runs) for cell in before] == [sorted(cell.runs) for cell in after]
    assert [cell.run.coupling.kind for cell in before] == [cell.run.coupling.kind for cell in after]
    seen = {}
    for old, new in zip(planned, runs, strict=True):
        assert (new.seed, new.data.name, new.objective, new.ema, new.noise) == (old.seed, old.data.name, old.objective, old.ema, old.noise)
        assert new.rehearsal and new.id.startswith("rehearsal-") and STEPS <= new.train.steps <= STEPS + 3 and not new.train.compile
        assert set(new.needs) == {short[need].id for need in old.needs} <= set(seen)
        if new.needs and getattr(new.coupling, "frozen_step", None):
            assert new.coupling.frozen_step in seen[new.coupling.frozen].keep_steps
        seen[new.id] = new


def test_differences_between_planned_runs_remain_where_they_can():
    """Widths, numbers of rows and sizes of assignments keep their proportions, so that labels name the right rows of the table."""
    scaling = expand("scaling", "paper")
    short = short_runs(scaling, Given(few_of(scaling)))
    for run in scaling:
        new = short[run.id]
        assert 4 * new.network.base_channels == run.network.base_channels and set(new.network.num_blocks) == {1}
        assert (new.data.limit is None) == (run.data.limit is None)
    assert len({run.data.limit for run in short.values()}) == 3
    sizes = {run.coupling.size: new.coupling.size for run, new in _with_sizes(expand("figure2", "paper"))}
    assert sizes == {128: 2, 512: 8, 2048: 32}


def _with_sizes(planned):
    short = short_runs(planned, Given())
    return [(run, short[run.id]) for run in planned if isinstance(run.coupling, BatchOT) and run.coupling.size]


@pytest.mark.parametrize("scale", ["fashion", "paper"])
def test_narrow_networks_can_be_built_and_those_that_share_weights_are_alike(scale):
    planned = expand("table2", scale, (0,))
    short = short_runs(planned, Given(few_of(planned)))
    by_id = {run.id: run for run in short.values()}
    for run in by_id.values():
        if run.init and run.init.kind == "run":
            start = by_id[run.init.ref].network
            assert start.model_copy(update={"dropout": run.network.dropout}) == run.network
    for run in {run.network: run for run in by_id.values()}.values():
        assert sum(parameter.numel() for parameter in model.preconditioned(run).parameters()) < 12_000_000


def test_channels_that_cannot_be_quartered_are_halved_or_kept():
    run = presets.make("paper", "cifar10", Independent(), 0)
    widths = {base: varied(run, network={"base_channels": base, "channel_mult": (1, 1, 1)}) for base in (96, 40, 36)}
    found = {base: short_runs([wide], Given())[wide.id].network.base_channels for base, wide in widths.items()}
    assert found == {96: 24, 40: 20, 36: 36}  # 10 and 9 are not multiples of 4, and neither is 18


# --- Data


@pytest.fixture
def real(tmp_path, monkeypatch):
    """A data folder in which CIFAR-10 is prepared, with 65 random images, and a set of the user's own."""
    root = tmp_path / "real"
    monkeypatch.setattr(stand_ins, "write_inception", lambda folder: "0" * 64)
    stand_ins.build([presets.make("paper", "cifar10", Independent(), 0)], tmp_path / "made", tmp_path / "s", root, lambda text: None)
    root.mkdir()
    (tmp_path / "made" / "cifar10").rename(root / "cifar10")
    monkeypatch.setenv("HARNESS_DATA", str(root))
    pictures = tmp_path / "pictures"
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (90, 8, 8), np.uint8)):
        (pictures / f"class {number % 3}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(pictures / f"class {number % 3}" / f"{number:02d}.png")
    options = {"size": 8, "labels": "from-folders", "features": "random", "progress": lambda *now: None}
    prepare_custom("textures", pictures, root, **options)
    return root


def test_what_is_there_is_taken_and_the_rest_has_stand_ins(real):
    runs = expand("table1", "paper")
    take = stand_ins.found(runs, real)
    assert take.prepared == {"cifar10"} and not take.inception
    text = smoke._given(runs, take).text
    assert text == (
        "smoke test: 4 steps, narrow networks, the first 64 images of cifar10, stand-ins for imagenet32, celeba64, church64, Inception"
    )
    (real / "cifar10" / "manifest.json").write_text("{")
    with pytest.raises(DamagedFile, match="damaged manifest"):
        stand_ins.found(runs, real)


def test_the_first_images_of_a_prepared_set_are_a_prepared_set(real, tmp_path):
    for name, most in (("cifar10", 64), ("textures", 64)):
        target = tmp_path / "few"
        target.mkdir(exist_ok=True)
        stand_ins.copy_first_images(info(name), real, target)
        whole = datasets.load(name, root=real)
        stored = read_manifest(info(name), target)["splits"]["train"]["count"]
        rows = {row.tobytes() for row in whole.rows.numpy()}
        copied = np.load(target / name / "train.npy")
        assert len(copied) == stored == most < len(whole) and all(row.tobytes() in rows for row in copied)
        counts = np.bincount(np.load(target / name / "train_labels.npy"))
        assert counts.max() - counts.min() <= (1 if name == "textures" else 10)
    assert len(datasets.load("cifar10", root=tmp_path / "few")) == 64
    custom = custom_set("textures", tmp_path / "few")
    assert custom.train == 64 and custom.sha256 != custom_set("textures", real).sha256
    run = presets.make("digits", "textures", Independent(), 0)
    (new,) = short_runs([run], Given(frozenset({"textures"}), {"textures": custom})).values()
    assert new.data.custom == custom and new.train.batch <= 64


def test_fashion_mnist_has_no_stand_in(tmp_path, monkeypatch):
    monkeypatch.setattr(stand_ins, "DEBIAN", tmp_path / "none")
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "real"))
    with pytest.raises(MissingFile, match="Fashion-MNIST is not here"):
        smoke_test(Options(Selection("table1", "fashion"), tmp_path / "new", "cpu"), quiet())
    assert not (tmp_path / "new").exists()


# --- Complete smoke tests


@pytest.fixture(scope="module")
def passed(tmp_path_factory):
    """The folder of `harness reproduce table1 --scale toy --smoke` as a person starts it, and what it printed."""
    base = tmp_path_factory.mktemp("smoke")
    environment = {**os.environ, "HARNESS_RESULTS": str(base / "results")}
    options = ["--scale", "toy", "--seeds", "0,4", "--smoke", "--output", str(base / "folder"), "--device", "cpu"]
    command = [sys.executable, "-m", "harness", "reproduce", "table1", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (base / "results").exists()
    return base / "folder", done.stdout


def test_all_runs_are_trained_and_the_complete_report_says_what_it_is(passed):
    folder, printed = passed
    content = json.loads((folder / "smoke-test.json").read_text())
    planned = expand("table1", "toy", SEEDS)
    assert content["passed"] and not content["faults"] and content["what"].startswith("smoke test: 4 steps")
    assert content["runs"] == [run.id for run in short_runs(planned, Given(text="smoke test: 4 steps")).values()]
    store = Store(folder / "results")
    for name in content["runs"]:
        assert store.folder(name).state() is State.DONE and not store.folder(name).stored_steps()
        assert sorted({row["step"] for row in store.folder(name).records()}) == [2, 4]
    assert not (folder / "data").exists() and "smoke test passed (6 runs" in printed
    table = pd.read_csv(folder / "results" / "tables" / "table1-toy.csv")
    models = table[(table.kind == "model") & (table.metric == "w2")]
    assert list(models.key) == ["ic", "ot", "gc-0.5"] and set(models.seeds) == {2} and set(table.records) == {"smoke test"}
    assert {"pure noise", "Gaussian fit"} <= set(table[table.kind == "baseline"].model)
    caption = "(toy scale; smoke test: 4 steps; NOT A RESULT)"
    assert caption in printed and caption in (folder / "results" / "tables" / "table1-toy.md").read_text()
    assert "[smoke test, not a result], at the toy scale:" in printed
    for name in ("convergence", "figure7", "transport-training"):
        assert (folder / "results" / "figures" / f"{name}-toy.png").is_file()
        assert set(pd.read_csv(folder / "results" / "figures" / f"{name}-toy.csv").records) == {"smoke test: 4 steps; NOT A RESULT"}
    page = (folder / "results" / "report.html").read_text()
    assert "This is a smoke test: 4 steps." in page and 'id="claim-C1"' in page and page.count("[smoke test, not a result]") >= 13


def test_nothing_of_it_becomes_a_result(passed, tmp_path):
    """Its runs are copied into a results folder, by somebody who mistakes them for results."""
    shutil.copytree(passed[0] / "results" / "runs", tmp_path / "runs")
    loaded = load.read(tmp_path)
    assert not loaded.runs and not loaded.baselines and sum("of a rehearsal; left out" in text for text in loaded.damage) == 7
    with pytest.raises(HarnessError, match="no finished runs"):
        publish(Selection("table1", "toy", SEEDS), tmp_path, allow_uncommitted=True)
    store = Store(tmp_path)
    assert {row.state for row in make_plan(expand("table1", "toy", SEEDS), store).rows} == {State.NEW}
    with pytest.raises(HarnessError, match="a run of a rehearsal is no result"):
        trained_runs.load(next(folder for folder in store.folders() if "baselines" not in folder.id))


ONE_MODEL = """\"\"\"Table 1 in place of the real one: IC on every data set.\"\"\"

from harness.config import presets
from harness.config.parts import Independent

REPORT = {"notes": ["a note of the experiment"]}


def runs(scale, seeds):
    return presets.grid(scale, [Independent()], (0,))
"""


def test_digits_and_a_set_of_the_users_own(real, tmp_path, monkeypatch, capsys):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "table1.py").write_text(ONE_MODEL)
    monkeypatch.setenv("HARNESS_EXPERIMENTS", str(tmp_path / "experiments"))
    before = sorted(path.relative_to(real) for path in real.rglob("*"))
    selection = Selection("table1", "digits", overrides=("evaluation.resamplings=1",), data=("digits", "textures"))
    assert smoke_test(Options(selection, tmp_path / "folder", "cpu"), quiet()) == 0, capsys.readouterr().out
    printed = capsys.readouterr().out
    assert "a note of the experiment" in printed and "Digits (8x8)" in printed and "textures" in printed
    assert len(json.loads((tmp_path / "folder" / "smoke-test.json").read_text())["runs"]) == 2
    assert before == sorted(path.relative_to(real) for path in real.rglob("*"))


# --- What breaks, and bad input


def test_a_run_that_is_not_done_is_named_and_the_exit_code_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(smoke, "launch", lambda plan, store, options, console: SweepResult())
    with (tmp_path / "out.txt").open("w") as out:
        options = Options(Selection("table1", "toy", (0,)), tmp_path / "folder", "cpu")
        assert smoke_test(options, Console(file=out, width=10_000)) == 1
    content, printed = json.loads((tmp_path / "folder" / "smoke-test.json").read_text()), (tmp_path / "out.txt").read_text()
    assert not content["passed"] and len(content["faults"]) == 4  # three runs and the baselines
    assert all(name in printed.partition("What broke:")[2] for name in content["faults"]) and (tmp_path / "folder" / "data").is_dir()


def test_a_signal_ends_it_as_it_ends_a_rehearsal(tmp_path, monkeypatch):
    monkeypatch.setattr(smoke, "launch", lambda plan, store, options, console: SweepResult(signal=15))
    with (tmp_path / "out.txt").open("w") as out:
        options = Options(Selection("table1", "toy", (0,)), tmp_path / "folder", "cpu")
        assert smoke_test(options, Console(file=out, width=10_000)) == 128 + 15
    assert "stopped; what there is lies in" in (tmp_path / "out.txt").read_text()
    assert not (tmp_path / "folder" / "smoke-test.json").exists() and not (tmp_path / "folder" / "results" / "report.html").exists()


def test_of_several_experiments_each_has_a_folder_and_a_fault_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    seen = []

    def answer(options, console):
        seen.append(options)
        if options.selection.experiment == "sweep_mu":
            raise HarnessError("damaged manifest", where="data")
        return 143 if options.selection.experiment == "table3" else 1

    monkeypatch.setattr(smoke, "smoke_test", answer)
    options = ["--smoke", "--scale", "toy", "--output", str(tmp_path / "all"), "--executor", "inline", "--device", "cpu"]
    assert cli.main(["reproduce", "all", *options]) == 143
    names = [options.selection.experiment for options in seen]
    assert names == ["table1", "sweep_mu", "table2", "table3"]  # a signal ends the command
    assert [options.folder for options in seen] == [tmp_path / "all" / name for name in names]
    assert {(options.device, options.executor) for options in seen} == {("cpu", "inline")}
    assert "sweep_mu: damaged manifest" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--executor", "slurm"], "--executor slurm"),
        (["--records", "own"], "--records"),
        (["--policy", "force"], "--policy"),
        (["--no-wait"], "--no-wait"),
        (["--log", "tensorboard"], "--log"),
        (["--executor", "inline", "--workers", "2"], "--workers"),
    ],
)
def test_options_that_mean_nothing_in_a_smoke_test_are_one_message(tmp_path, capsys, monkeypatch, options, named):
    monkeypatch.setenv("HARNESS_LOG", "")  # which --log sets for the jobs
    assert cli.main(["reproduce", "table1", "--scale", "toy", "--smoke", "--output", str(tmp_path / "new"), *options]) == 2
    message = capsys.readouterr().err
    assert "this option does not apply here" in message and named in message and "Traceback" not in message
    assert not (tmp_path / "new").exists()


def test_folders_and_names_that_cannot_be_used_are_one_message(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    command = ["reproduce", "table1", "--scale", "toy", "--device", "cpu"]
    assert cli.main([*command, "--smoke", "--output", str(tmp_path / "full")]) == 2
    assert "the folder is not empty" in capsys.readouterr().err and len(list((tmp_path / "full").iterdir())) == 1
    assert cli.main([*command, "--output", str(tmp_path / "new")]) == 2
    assert "--smoke" in capsys.readouterr().err and not (tmp_path / "new").exists()
    assert cli.main(["reproduce", "tabel1", "--smoke", "--output", str(tmp_path / "new")]) == 2
    assert "table1" in capsys.readouterr().err and not (tmp_path / "new").exists()
    assert cli.main(["sweep", "table1", "--smoke"]) == 2
    assert "no such argument" in capsys.readouterr().err
