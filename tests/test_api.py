"""The public functions of the package: they load late, read well in help(), and agree with the command line."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
import threading
import warnings

import pandas as pd
import pytest
import torch
from PIL import Image
from report_support import make_run
from sharing_support import finished, image_run
from sweep_support import ROOT, toy_run
from theory_support import assert_refused
from train_support import tiny_run

import harness
from harness.api.results import RECORD_COLUMNS
from harness.config import presets
from harness.config.parts import BatchOT, Custom, GeneratorAugmented, Independent
from harness.config.trust import VARIABLE, is_trusted
from harness.reporting import load as reported
from harness.reporting import produce
from harness.store.runs import Store

FUNCTIONS = [name for name in harness.__all__ if name[0].islower()]
CLASSES = [name for name in harness.__all__ if name[0].isupper()]
GOOD = "def pairs(x, z, sigma, predict):\n    return x, z.roll(1, 0)\n"


@pytest.fixture(autouse=True)
def no_trust(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")


def test_import_loads_nothing_else():
    heavy = ("torch", "pandas", "numpy", "matplotlib", "pydantic", "harness.api", "harness.config")
    text = f"import sys, harness; print([name for name in {heavy} if name in sys.modules]); harness.preset; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout == "[]\nFalse\n", done.stderr


def test_help_describes_every_public_name():
    text = pydoc.render_doc(harness, renderer=pydoc.plaintext)
    for name in FUNCTIONS:
        function = getattr(harness, name)
        assert f"{name}(" in text and inspect.getdoc(function).splitlines()[0] in text
        described = inspect.getdoc(function) + inspect.getdoc(harness.preset) + inspect.getdoc(harness.records)
        missing = [of for of in inspect.signature(function).parameters if f"{of}:" not in described and f"{of}," not in described]
        assert not missing, f"{name} does not describe {missing}"
    for name in CLASSES:
        assert f"class {name}" in text
    assert set(FUNCTIONS) <= set(dir(harness)) and "harness.load(" in text


@pytest.mark.parametrize("name", ["sample", "denoise", "trajectory", "noise", "pixels", "to", "__call__"])
def test_methods_of_a_model_are_documented_and_typed(name):
    method = getattr(harness.TrainedModel, name)
    assert inspect.getdoc(method)
    parameters = [of for of in inspect.signature(method).parameters.values() if of.name != "self"]
    assert all(of.annotation is not inspect.Parameter.empty for of in parameters)


def test_an_unknown_name_of_the_package_names_the_others():
    with pytest.raises(AttributeError, match="verdicts"):
        harness.lode  # noqa: B018


def test_a_preset_is_the_run_of_the_scale():
    assert harness.preset("digits") == presets.make("digits", "digits", GeneratorAugmented(mu=0.5), 0)
    assert harness.preset("toy", "two-moons", "ic", seed=3) == presets.make("toy", "two-moons", Independent(), 3)
    assert harness.preset("toy", coupling="gc-0.3").coupling == GeneratorAugmented(mu=0.3)
    assert harness.preset("toy", coupling="ot").coupling == BatchOT() == harness.preset("toy", coupling=BatchOT()).coupling
    run = harness.preset(
        "digits", changes={"train.steps": 7, "network.channel_mult": (1, 2), "data.limit": None, "train.optimizer": "adam"}
    )
    assert (run.train.steps, run.network.channel_mult, run.train.optimizer) == (7, (1, 2), "adam")
    for arguments, text in (
        ({"scale": "toys"}, "toy"),
        ({"data": "digit"}, "digits"),
        ({"coupling": "gc-2"}, "gc-2"),
        ({"coupling": "cg"}, "cg"),
        ({"coupling": "absent.py:f"}, "absent.py"),
        ({"changes": {"train.step": 4}}, "step"),
        ({"changes": {"train.steps": -4}}, "-4"),
    ):
        with pytest.raises(harness.HarnessError) as caught:
            harness.preset(**arguments)
        assert text in str(caught.value)


def test_the_runs_of_an_experiment_are_those_of_the_command_line(tmp_path):
    from harness.config.experiments import expand

    assert harness.experiment("table1", "toy") == expand("table1", "toy")
    runs = harness.experiment("table1", "toy", seeds=[4], changes={"train.steps": 50, "ema.rate": 0.9})
    assert runs == expand("table1", "toy", (4,), ["train.steps=50", "ema.rate=0.9"])
    (tmp_path / "mine.py").write_text(GOOD)
    runs = harness.experiment("table1", "toy", seeds=1, couplings=[f"{tmp_path / 'mine.py'}:pairs"])
    (custom,) = [run.coupling for run in runs if isinstance(run.coupling, Custom)]
    assert is_trusted(custom.sha256), "the caller named the file"
    assert harness.experiment("table1", "toy", seeds=1, data="two-moons") == expand("table1", "toy", (0,), data=("two-moons",))
    for seeds in (0, [], [-1], "2"):
        with pytest.raises(harness.HarnessError):
            harness.experiment("table1", "toy", seeds=seeds)


def test_run_trains_here_and_loads_what_is_finished(tmp_path, capsys):
    run = tiny_run("gc", steps=12)
    torch.set_num_threads(2)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model = harness.run(run, results=tmp_path, device="cpu")
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == 2, "torch is as before"
    torch.set_num_threads(1)
    assert "step 12/12" in capsys.readouterr().out
    assert Store(tmp_path).folder(run.id).result()["step"] == 12
    again = harness.run(run, results=tmp_path, device="cpu")
    assert "done already" in capsys.readouterr().out
    named = harness.load("eight-gaussians-gc", results=tmp_path)
    for other in (again, named, harness.load(model.source)):
        assert torch.equal(other.sample(9), model.sample(9)) and other.run == run
    assert run.id in repr(model)


def test_a_run_that_fails_says_why(tmp_path):
    diverging = tiny_run("ic", steps=40)
    diverging = diverging.model_copy(update={"train": diverging.train.model_copy(update={"lr": 1e6, "optimizer": "lion"})})
    with pytest.raises(harness.HarnessError, match="the run failed") as caught:
        harness.run(diverging, results=tmp_path, device="cpu")
    assert "step" in caught.value.details["found"]


def test_a_run_that_cannot_be_trained_is_refused_before_it_gets_a_folder(tmp_path):
    needy = toy_run(mu=0.5, frozen="two-moons-ic-s0-0123456789ab")
    with assert_refused(found="two-moons-ic-s0-0123456789ab"):
        harness.run(needy, results=tmp_path)
    (tmp_path / "mine.py").write_text(GOOD)
    run = harness.preset("toy", coupling=f"{tmp_path / 'mine.py'}:pairs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "")  # as for a run that came from somebody else
        with pytest.raises(harness.HarnessError, match="not trusted"):
            harness.run(run, results=tmp_path)
    caught = []

    def in_a_thread():
        try:
            harness.run(tiny_run("ic"), results=tmp_path)
        except harness.HarnessError as error:
            caught.append(error)

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert "main thread" in caught[0].what
    assert not (tmp_path / "runs").exists()


def test_load_names_the_runs_that_a_name_could_mean(tmp_path):
    runs = [image_run(), image_run(seed=1)]
    for run in runs:
        finished(tmp_path, run)
    assert harness.load("digits-ic-s1", results=tmp_path).run == runs[1]
    assert harness.load(runs[0].digest[:8], results=tmp_path).run == runs[0]
    with assert_refused(found="digits", expected=runs[1].id):
        harness.load("digits", results=tmp_path)
    with assert_refused(expected=runs[0].id):
        harness.load("fashion", results=tmp_path)
    with pytest.raises(harness.HarnessError, match="no runs yet"):
        harness.load("digits", results=tmp_path / "empty")


def test_records_are_one_row_per_measurement_with_what_the_run_was(results):
    frame = harness.records(results=results)
    assert tuple(frame.columns) == RECORD_COLUMNS
    assert len(frame) == len(reported.read(results).frame) > 100
    final = frame.query("final and metric == 'fid'")
    assert final.groupby("model").size().to_dict() == {"ic": 3, "ot": 3, "gc-0.5": 3}
    row = final[final.model == "gc-0.5"].iloc[0]
    assert (row.source, row.scale, row.data, row.label, row.steps, row.step) == ("own", "digits", "digits", "iCT-GC (mu=0.5)", 2400, 2400)
    assert row.run == harness.preset("digits", seed=int(row.seed)).id
    fid = harness.records(results=results, scale="digits", metric="fid")
    pd.testing.assert_frame_equal(fid, frame[frame.metric == "fid"].reset_index(drop=True))
    assert list(harness.records(results=results, scale="toy").columns) == list(RECORD_COLUMNS)
    assert harness.records(results=results, source="published").empty
    for wrong in ({"scale": "toys"}, {"source": "mine"}):
        with pytest.raises(harness.HarnessError):
            harness.records(results=results, **wrong)


def test_what_is_damaged_is_left_out_with_a_warning(tmp_path):
    folder = make_run(tmp_path, harness.preset("digits", coupling="ic"))
    make_run(tmp_path, harness.preset("digits", coupling="ot"))
    (folder.path / "config.json").write_text("{")
    with pytest.warns(UserWarning, match="config.json"):
        frame = harness.records(results=tmp_path)
    assert set(frame.model) == {"ot"}


def test_tables_and_verdicts_are_those_of_the_report(results):
    from report_support import table

    pd.testing.assert_frame_equal(harness.table("table1", "digits", results=results), table(results))
    one = harness.table("table1", "digits", results=results, seeds=[1])
    assert set(one[one.kind == "model"].seeds) == {1}
    verdicts = harness.verdicts("digits", results=results)
    judged = produce.verdicts_of_scale(reported.read(results, scale="digits"), "digits")
    assert verdicts.set_index("claim").outcome.to_dict() == {verdict.id: str(verdict.outcome) for verdict in judged}
    assert verdicts.set_index("claim").outcome["C11"] == "not run"


def test_a_figure_is_that_of_the_report_and_others_are_named(results, tmp_path):
    figure = harness.figure("convergence", results=results)
    assert [axes.get_xlabel() for axes in figure.axes] == ["training step"]
    figure.savefig(tmp_path / "whole.png")
    figure.savefig(tmp_path / "tight.png", bbox_inches="tight")  # as notebooks show figures
    (_, whole), (_, tight) = (Image.open(tmp_path / f"{name}.png").size for name in ("whole", "tight"))
    assert tight > 0.9 * whole > 200, "with title and legend"
    with assert_refused(found="convergenze", nearest="convergence"):
        harness.figure("convergenze", results=results)
    with pytest.raises(harness.HarnessError, match="unknown figure"):
        harness.figure("convergence", "toy", results=results)


def test_figures_of_several_data_sets_ask_which(tmp_path):
    for data in ("two-moons", "two-gaussians"):
        make_run(tmp_path, harness.preset("toy", data, coupling="ic"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with assert_refused(expected="two-moons"):
            harness.figure("convergence", "toy", results=tmp_path)
        assert harness.figure("convergence", "toy", data="two-moons", results=tmp_path).axes
