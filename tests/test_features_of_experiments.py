"""Feature networks of one's own for all runs of an experiment: measured once, a column of the table, held-out data, bad input."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.linalg import sqrtm

from harness import cli
from harness.config.own_classes import FEATURE_NETWORKS, named
from harness.config.selection import Selection
from harness.core.randomness import generator
from harness.data import datasets
from harness.metrics.own_features import build
from harness.metrics.reference_statistics import build_reference, training_set
from harness.metrics.sample_metrics import image_values
from harness.reporting.values import METRICS
from harness.store.runs import RunFolder, Store
from harness.sweep import slurm_command
from harness.training import job, trained_runs
from harness.training.evaluation import generate_samples

EXPERIMENT = '''"""Two models of the digits, with few steps."""

from harness.config import presets
from harness.config.parts import Denoising, GeneratorAugmented, Independent
from harness.config.run import varied

SEEDS = 2
FEW = {
    "train": {"steps": 4, "batch": 8},
    "evaluation": {"samples": 150, "every": 4, "resamplings": 2, "times": (1.0,)},
    "network": {"base_channels": 4},
}
CHANGED = {"keep_steps": (2,)}


def runs(scale, seeds):
    data = "digits" if scale == "digits" else "two-moons"
    couplings = (Independent(), GeneratorAugmented(mu=0.5))
    made = [presets.make(scale, data, coupling, seed) for seed in seeds for coupling in couplings]
    return [varied(run, **FEW).model_copy(update=CHANGED) if scale == "digits" else run for run in made]
'''
OWN = '''
import torch

class Pixels:
    """Eight random projections of the pixels."""

    def __init__(self, device):
        self.matrix = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)).to(device)

    def __call__(self, images):
        return images.float().flatten(1) / 255 @ self.matrix

class Fails:
    def __init__(self, device): pass
    def __call__(self, images): raise KeyError("weights")
'''


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiments")
    (folder / "few.py").write_text(EXPERIMENT)
    (folder / "denoise.py").write_text(EXPERIMENT.replace("CHANGED = {", 'CHANGED = {"objective": Denoising(), '))
    return folder


@pytest.fixture(scope="module")
def trained(experiments, tmp_path_factory):
    """A results folder with the four runs of `few`, done; tests copy it."""
    root = tmp_path_factory.mktemp("few")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_EXPERIMENTS", str(experiments))
        runs = Selection("few").runs()
    for run in runs:
        assert job.run_job(RunFolder.create(root, run.id, run.to_dict()).path, "cpu") == 0
    return root, runs


@pytest.fixture(scope="module")
def measured(trained, experiments, tmp_path_factory):
    """The same folder with all runs measured by Pixels."""
    place = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        set_up(place, trained[0], experiments, patch)
        assert cli.main(MEASURE) == 0
    return place / "results"


def set_up(place, results, experiments, patch):
    """A copy of a results folder and a file with feature networks, in the folder where the commands of a test run."""
    for name, value in (("EXPERIMENTS", experiments), ("RESULTS", place / "results"), ("TRUST", "")):
        patch.setenv(f"HARNESS_{name}", str(value))  # that of TRUST undoes what the test sets
    patch.chdir(place)
    (place / "own.py").write_text(OWN)
    shutil.copytree(results, place / "results")


@pytest.fixture
def few(trained, experiments, tmp_path, monkeypatch):
    """The four runs in a results folder of this test."""
    set_up(tmp_path, trained[0], experiments, monkeypatch)
    return SimpleNamespace(root=tmp_path / "results", runs=trained[1], store=Store(tmp_path / "results"), code=tmp_path / "own.py")


@pytest.fixture
def seen(few, measured):
    """The same with all runs measured."""
    shutil.rmtree(few.root)
    shutil.copytree(measured, few.root)
    return few


MEASURE = ["measure", "few", "--what", "metrics", "--features", "own.py:Pixels", "--device", "cpu"]


def files(few) -> dict[str, int]:
    """The measurements of runs and of real images, with the time when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in few.root.glob("measured/digits/features/*/*.json")}


def table(few, *options: str) -> tuple[pd.DataFrame, str]:
    """The numbers and the text of the table of `few`."""
    assert cli.main(["report", "few", *options]) == 0
    (path,) = few.root.glob("tables/**/few-digits*.csv")
    return pd.read_csv(path), path.with_suffix(".md").read_text()


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """The Frechet distance of the Gaussians with the moments of two samples (n, d), by a matrix square root of SciPy."""
    first, second = np.cov(a.T), np.cov(b.T)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * sqrtm(first @ second).real))


def features(images: torch.Tensor) -> np.ndarray:
    """What Pixels computes of uint8 levels, in double precision."""
    matrix = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)).double()
    return (images.double().flatten(1) / 255 @ matrix).numpy()


def test_runs_are_measured_once_and_shown_in_a_column_of_their_own(few, capsys):
    unfinished = few.store.folder(few.runs[3].id)
    result = (unfinished.path / "result.json").read_text()
    (unfinished.path / "result.json").unlink()
    assert cli.main(MEASURE) == 1
    said = capsys.readouterr().out
    assert f"left out: {unfinished.id} is " in said and "harness sweep few" in said and "[4/4]" in said and " left" in said
    before = files(few)
    assert {f"{run.id}.json" for run in few.runs[:3]} < {*before} and len(before) == 4, "three runs, and real images"

    (unfinished.path / "result.json").write_text(result)
    assert cli.main(MEASURE) == 0
    after = files(few)
    assert {*after} - {*before} == {f"{unfinished.id}.json"} and before.items() <= after.items()
    assert cli.main(MEASURE) == 0 and files(few) == after
    assert "5 of 5 measurements are there, 0 to be made" in capsys.readouterr().out

    data, text = table(few)
    assert "FID (Pixels)" in text and "FID, 2 steps (Pixels)" in text and "measured by Pixels" in text
    assert {"fid@Pixels", "fid/2-steps@Pixels", "kid@Pixels", "recall@Pixels"} < {*data.metric} and "is@Pixels" not in {*data.metric}
    (row,) = data[(data.key == "gc-0.5") & (data.metric == "fid@Pixels")].itertuples()
    real, values = features(datasets.load("digits").rows), []
    for run in (run for run in few.runs if run.coupling.kind == "gc"):
        model = trained_runs.load(few.store.folder(run.id))
        made = [generate_samples(run, model.data, model.network)(k, range(150)) for k in range(2)]
        levels = [((x.clamp(-1, 1) + 1) / 2 * 255).round() for x in made]
        values.append(np.mean([frechet(real, features(x)) for x in levels]))
    assert row.mean == pytest.approx(np.mean(values), rel=1e-4)
    low, high = stats.t.interval(0.95, 1, np.mean(values), stats.sem(values))
    assert (row.low, row.high) == pytest.approx((max(low, 0), high), rel=1e-3)
    assert (row.seeds, row.samples, row.records) == (2, 150, "own")
    hash_ = next((few.root / "measured/digits/features").iterdir()).name.removeprefix("Pixels-")
    (note,) = [line for line in text.splitlines() if line.startswith("- ") and "SHA-256" in line]
    assert hash_ in note and "150 samples" in note and "not published" in note and row.protocol in note
    capsys.readouterr()
    assert cli.main(["why", "few", "digits", "gc", "fid@Pixels"]) == 0
    assert f"{row.mean:.6g}" in capsys.readouterr().out


def test_held_out_images_are_measured_by_the_same_network(seen):
    data, text = table(seen)
    heldout = datasets.load("digits", "heldout", at_most=150).rows
    (row,) = data[(data.model == "real data, held out") & (data.metric == "fid@Pixels")].itertuples()
    assert (row.samples, row.mean) == (150, pytest.approx(frechet(features(datasets.load("digits").rows), features(heldout)), rel=1e-4))
    assert row.protocol == data[(data.key == "ic") & (data.metric == "fid@Pixels")].protocol.item()
    assert "real data, held out" in text


def test_networks_of_one_name_have_columns_of_their_own(seen):
    seen.code.write_text(OWN + "\n# edited\n")
    assert cli.main(MEASURE) == 0
    data, text = table(seen)
    hashes = [folder.name.removeprefix("Pixels-") for folder in (seen.root / "measured/digits/features").iterdir()]
    assert len({*hashes}) == 2 and all(f"FID (Pixels {hash_[:8]})" in text for hash_ in hashes)
    assert len({*data[data.metric.str.startswith("fid@")].protocol}) == 2 and "fid@Pixels" not in {*data.metric}


def test_values_of_another_number_of_samples_are_left_out_and_runs_without_one_show_a_dash(seen):
    (folder,) = (seen.root / "measured/digits/features").iterdir()
    other, ic = (next(run for run in seen.runs if run.coupling.kind == kind) for kind in ("gc", "independent"))
    path = folder / f"{other.id}.json"
    content = json.loads(path.read_text())
    for row in content["rows"]:
        row |= {"n": 99, "protocol": "0" * 12}
    path.write_text(json.dumps(content))
    (folder / f"{ic.id}.json").unlink()
    data, text = table(seen)
    seeds = data[data.metric == "fid@Pixels"].set_index("key").seeds
    assert (seeds["gc-0.5"], seeds["ic"]) == (1, 1)
    assert f"left out: {other.id}: fid@Pixels of protocol 000000000000" in text
    assert "not measured by Pixels: 1 of 4 finished runs (seeds 0)" in text

    for run in seen.runs:
        if run.coupling.kind == "independent":
            (folder / f"{run.id}.json").unlink(missing_ok=True)
    (line,) = [line for line in table(seen)[1].splitlines() if line.startswith("| iCT-IC") and "%" not in line][:1]
    place = next(line for line in table(seen)[1].splitlines() if "FID (Pixels)" in line).split("|").index(" FID (Pixels) ")
    assert line.split("|")[place].strip() == "-"


def test_a_run_that_was_trained_again_and_a_damaged_file_are_measured_again(seen, capsys):
    (folder,) = (seen.root / "measured/digits/features").iterdir()
    path = folder / f"{seen.runs[0].id}.json"
    good = json.loads(path.read_text())
    older, broken = {**good, "check": "f" * 12}, {**good, "rows": [{"metric": "fid"}]}
    for fault, said in ((older, "was trained again"), (broken, "damaged measurements")):
        path.write_text(json.dumps(fault))
        capsys.readouterr()
        seeds = table(seen)[0].set_index(["key", "metric"]).seeds
        assert seeds["ic", "fid@Pixels"] == 1 and said in capsys.readouterr().out
        assert cli.main(MEASURE) == 0 and "4 of 5 measurements are there, 1 to be made" in capsys.readouterr().out
        again = json.loads(path.read_text())
        assert {**again, "provenance": 0} == {**good, "provenance": 0}


def test_one_run_and_a_kept_checkpoint(few, capsys):
    run = few.runs[0]
    assert cli.main(["measure", run.id, *MEASURE[2:]]) == 0
    assert {*files(few)} == {f"{run.id}.json"}, "what was measured of one run counts for its experiment"
    assert table(few)[0].set_index(["key", "metric"]).seeds["ic", "fid@Pixels"] == 1
    capsys.readouterr()
    assert cli.main([*MEASURE, "--step", "2", "--seeds", "1"]) == 0
    assert {f"{run.id}-step-2.json" for run in few.runs[:2]} < {*files(few)} and "fid@Pixels" in capsys.readouterr().out
    assert table(few)[0].set_index(["key", "metric"]).seeds["gc-0.5", "fid@Pixels"] == 0, "the table is that of the last step"
    assert cli.main([*MEASURE, "--step", "3"]) == 2
    assert "there are those of 2, 4" in capsys.readouterr().err


def test_reproduce_measures_after_the_sweep_and_before_the_report(seen, capsys):
    (folder,) = (seen.root / "measured/digits/features").iterdir()
    (folder / f"{seen.runs[0].id}.json").unlink()
    options = ["--executor", "inline", "--device", "cpu", "--features", "own.py:Pixels", "--quiet"]
    assert cli.main(["reproduce", "few", *options]) == 0
    said = capsys.readouterr().out
    assert said.index("1 to be made") < said.index("FID (Pixels)") and len(files(seen)) == 5
    shutil.rmtree(seen.root)
    assert cli.main(["reproduce", "few", *options, "--features", "own.py:Fails"]) == 2
    assert "KeyError" in capsys.readouterr().err and not seen.root.exists(), "nothing is trained for a network that cannot be used"


def test_on_a_login_node_a_job_measures(few, monkeypatch, capsys):
    commands: list[list[str]] = []
    monkeypatch.setattr(slurm_command, "slurm_answers", lambda: True)
    monkeypatch.setattr("harness.sweep.executors.slurm_answers", lambda: True)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("HARNESS_SITE", raising=False)
    monkeypatch.setattr(slurm_command.subprocess, "run", lambda command, **_: commands.append(command) or SimpleNamespace(returncode=1))
    monkeypatch.setattr("harness.commands.sweeps.launch", lambda *_: SimpleNamespace(signal=None, exit_code=0))
    assert cli.main(["reproduce", "few", "--features", "own.py:Pixels"]) == 0
    words = " ".join(commands[-1])
    assert words.startswith("srun ") and "-m harness measure few --what metrics --features own.py:Pixels --device auto" in words


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["few", "--what", "metrics", "--features", "own.py:Pixel"], "Pixels"),
        (["few", "--what", "metrics", "--features", "resnet"], "unknown name"),
        (["few", "--what", "metrics", "--features", "own.py:Pixels", "--scale", "toy"], "points have no features"),
        (["few", "--what", "metrics", "--features", "own.py:Pixels", "--seeds", "7,"], "none of the 2 runs of few is done"),
        (["few", "--what", "metrics"], "--features NAME"),
        (["few", "--features", "own.py:Pixels"], "--what metrics"),
        (["few", "--what", "metrics,ema", "--features", "own.py:Pixels"], "--what metrics"),
        (["few"], "--what metrics"),
        (["few", "--what", "metrics", "--features", "own.py:Pixels", "--t", "1"], "noise levels"),
        (["few", "--what", "metrics", "--features", "own.py:Pixels", "--features", "other.py:Pixels"], "two feature networks"),
        (["denoise", "--what", "metrics", "--features", "own.py:Pixels"], "draws no samples"),
    ],
)  # fmt: skip
def test_bad_input_is_one_message(few, capsys, arguments, said):
    (few.code.parent / "other.py").write_text(OWN + "\n")
    capsys.readouterr()
    assert cli.main(["measure", *arguments]) == 2
    _, err = capsys.readouterr()
    assert said in err and "Traceback" not in err and not files(few)
    if arguments[:3] == ["few", "--what", "metrics"] and "toy" in arguments:
        assert cli.main(["reproduce", *arguments[:1], *arguments[3:]]) == 2
        assert said in capsys.readouterr().err


def test_a_network_without_classes_measures_data_with_a_rare_class(few):
    reference = build_reference(training_set("digits-rare"), build(named("own.py:Pixels", FEATURE_NETWORKS, "--features")))
    sample = reference.extractor.extract(datasets.load("digits").rows[:100])
    assert {*image_values(sample, reference, generator(0, "measure"))} == {"fid", "kid", "precision", "recall"}


def test_a_metric_of_another_network_is_titled_with_it():
    assert METRICS["fid@Pixels"].title == "FID (Pixels)" and METRICS["kid@Pixels"].factor == METRICS["kid"].factor
    assert METRICS["fid/2-steps@Pixels 12345678"].title == "FID, 2 steps (Pixels 12345678)"
