"""`harness rehearse`: its parts, complete rehearsals of a small plan and on stand-ins, what it says when things break, and that nothing of
it reaches results."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from report_support import make_results, make_run

from harness.config import presets
from harness.config.baselines import baseline_jobs
from harness.config.experiments import expand
from harness.config.identity import differences, identity_digest
from harness.config.parts import GeneratorAugmented, Independent
from harness.config.run import Run, varied
from harness.config.selection import Selection
from harness.console import Console
from harness.core.networks import build as build_network
from harness.core.randomness import generator
from harness.data import datasets
from harness.data.catalogue import REGISTRY, info
from harness.errors import HarnessError, MissingFile
from harness.metrics import inception
from harness.metrics.inception import InceptionExtractor, weights_status
from harness.rehearsal import places, stand_ins
from harness.rehearsal.archives import ffhq_folder
from harness.rehearsal.kinds import Estimate, Kind, Length, estimated, fitted, hours, kinds, length_of, needs_stand_in
from harness.rehearsal.outcome import NONE, OK, STEPS, outcomes
from harness.rehearsal.printing import hours_line, summary
from harness.rehearsal.rehearse import Options, rehearse
from harness.rehearsal.stand_ins import BUILDERS, build
from harness.rehearsal.weights import write_inception, write_public_weights
from harness.reporting import load, produce, rehearsed
from harness.reporting.publish import publish
from harness.store import stand_ins as marks
from harness.store.exit_codes import ExitCode
from harness.store.runs import RunFolder, State, Store
from harness.sweep.doctor import absent, doctor
from harness.sweep.plan import Action, make_plan
from harness.sweep.status import status as status_of
from harness.sweep.status import table, totals
from harness.theory.studies import single_run
from harness.theory.studies.common import StudyContext
from harness.training import model, trained_runs, user_couplings
from harness.training.edm_weights import load_edm_weights, load_into
from harness.training.job import run_job

GIB = 2**30
PLENTY = 1000 * GIB
TINY = {"base_channels": 16, "channel_mult": (1, 2), "num_blocks": (1, 1), "attention": (), "dropout": (0.0, 0.0)}


def on_cpu(runs, limit=PLENTY):
    return kinds(runs, uses_gpu=False, limit=limit)


# --- Which runs are rehearsed


@pytest.mark.parametrize(
    ("experiment", "scale", "count"), [("table1", "paper", 12), ("table2", "paper", 6), ("figure4", "toy", 2), ("mechanism", "digits", 8)]
)
def test_every_planned_run_belongs_to_one_kind(experiment, scale, count):
    runs = expand(experiment, scale)
    found = on_cpu(runs)
    covered = [run.id for kind in found for run in kind.planned]
    assert len(found) == count
    assert sorted(covered) == sorted(run.id for run in runs)
    assert len({kind.run.id for kind in found}) == len(found)


def test_runs_of_a_kind_differ_in_numbers_of_the_arithmetic_only():
    for kind in on_cpu([run for name in ("table1", "table2", "sweep_mu") for run in expand(name, "paper", (0, 1))]):
        first, *others = kind.planned
        for other in others:
            keys = set(differences(first.to_dict(), other.to_dict())) - {"seed", "checkpoint_every", "keep_steps"}
            assert keys <= {"coupling.mu", "train.steps", "ema.rate", "evaluation.every", "objective.q", "objective.double"}, keys
            assert (first.coupling.kind, first.network, first.data) == (other.coupling.kind, other.network, other.data)


def test_the_run_that_predicts_most_stands_for_the_others():
    runs = [presets.make("paper", "cifar10", GeneratorAugmented(mu=mu), 0) for mu in (0.3, 0.9, 0.5)]
    (kind,) = on_cpu(runs)
    assert kind.run.coupling.mu == 0.9 and kind.others == (runs[0].id, runs[2].id)
    only_endpoints = presets.make("paper", "cifar10", GeneratorAugmented(mu=1.0), 0)
    assert len(on_cpu([*runs, only_endpoints])) == 2  # no row is IC, which is another path


def test_a_rehearsed_run_is_as_planned_but_for_its_length():
    run = presets.make("paper", "celeba64", GeneratorAugmented(mu=0.5), 0)
    (kind,) = on_cpu([run])
    changed = {key: new for key, (_, new) in differences(run.to_dict(), kind.run.to_dict()).items()}
    assert changed == {
        "rehearsal": "few steps; stand-ins for the data set, the Inception network",
        "train.steps": 3,
        "train.batch": 2,
        "checkpoint_every": 3,
        "evaluation.every": 3,
        "evaluation.samples": 5,
        "evaluation.resamplings": 1,
        "evaluation.grid": 1,
    }
    assert kind.length.stop == 2 and kind.run.id.startswith("rehearsal-celeba64-gc-0.5-s0-") and kind.run.id != run.id
    assert not kind.narrowed


def test_needed_runs_are_rehearsed_before_and_named_by_their_rehearsals():
    by_id = {kind.run.id: kind for kind in on_cpu(expand("figure4", "digits"))}
    seen = set()
    for name, kind in by_id.items():
        assert set(kind.run.needs) <= seen
        if kind.run.needs and kind.run.coupling.frozen_step:
            needed = by_id[kind.run.coupling.frozen]
            assert kind.run.coupling.frozen_step == needed.length.stop and needed.run.keep_steps == (needed.length.stop,)
        seen.add(name)
    tuned = [kind for kind in on_cpu(expand("table2", "digits")) if kind.run.init]
    assert tuned and all(kind.run.init.ref.startswith("rehearsal-digits-denoiser") for kind in tuned)
    lonely = tuned[0].planned[0]
    with pytest.raises(HarnessError, match="needs another one"):
        on_cpu([lonely])


def test_kinds_that_differ_in_the_batch_alone_are_one_where_it_is_shortened():
    run = presets.make("paper", "cifar10", Independent(), 0)
    (kind,) = on_cpu([run, varied(run, train={"batch": 128})])
    assert len(kind.planned) == 2 and kind.length.rows == 2


@pytest.mark.parametrize("experiment", ["table1", "table2"])
def test_every_rehearsal_of_gc_predicts_an_endpoint(experiment):
    """Two rows in each of three steps might hold no GC row at all. The masks are addressed, so that those of these plans are known."""
    for kind in on_cpu(expand(experiment, "paper")):
        if kind.run.coupling.kind != "gc":
            continue
        rows = []

        def predict(x, sigma, chosen, rows=rows):
            rows.append(len(chosen))
            return x

        x = torch.zeros(kind.length.rows, 3, 4, 4)
        for step in range(kind.length.steps):
            coupling, draws = user_couplings.build(kind.run), generator(kind.run.seed, "mask", step, 0)
            coupling.function(x, torch.ones_like(x), torch.ones(len(x), dtype=torch.float64), predict, draws)
        assert sum(rows) > 0, kind.run.id


# --- Lengths, memory and hours


def test_small_networks_and_gpus_rehearse_complete_batches():
    digits, paper = (presets.make(scale, data, Independent(), 0) for scale, data in (("digits", "digits"), ("paper", "cifar10")))
    assert length_of(digits, uses_gpu=False).rows == digits.train.batch == length_of(digits, uses_gpu=True).rows
    assert length_of(paper, uses_gpu=True).rows == 512 and length_of(paper, uses_gpu=False).rows == 2


def test_the_estimate_counts_checkpoints_twice_beside_the_run():
    run = on_cpu([presets.make("paper", "cifar10", Independent(), 0)])[0].run
    parameters = sum(p.numel() for p in model.preconditioned(run).parameters())
    training = 4 * parameters * 5  # weights, EMA, gradients, an update, Lion's moment
    stored = 4 * parameters * 3  # weights, EMA, moment
    rest = estimated(run, uses_gpu=False).host - training - 2 * stored
    assert 0.5 * GIB < rest < 3 * GIB  # the process, activations of four rows, the Inception network


def test_a_network_that_does_not_fit_is_narrowed_and_named():
    runs = expand("table2", "paper")
    edm2 = [kind for kind in on_cpu(runs, limit=12 * GIB) if kind.run.data.name == "imagenet64"]
    assert [kind.narrowed for kind in edm2] == ["128 instead of 192 base channels"] * 2
    for kind in edm2:
        assert kind.run.network == kind.planned[0].network.model_copy(update={"base_channels": 128})
        assert kind.estimate.host <= 12 * GIB and "network with 128 instead of 192 base channels" in kind.run.rehearsal
        assert hours(kind, 1.0) is None  # the time of another network says nothing
    full = [kind for kind in on_cpu(runs) if kind.run.data.name == "imagenet64"]
    assert all(kind.run.network.base_channels == 192 and not kind.narrowed and kind.estimate.host > 12 * GIB for kind in full)
    with pytest.raises(HarnessError, match="not even the narrowest network fits") as caught:
        on_cpu(runs, limit=1 * GIB)
    assert caught.value.details["where"] == "--memory"


def test_a_gpu_limits_the_network_too():
    run = on_cpu([presets.make("paper", "cifar10", Independent(), 0)])[0].run
    narrow = fitted(run, uses_gpu=True, limit=PLENTY, gpu=1.2 * GIB)
    assert estimated(narrow, uses_gpu=True).least <= 1.2 * GIB and narrow.network.base_channels < 128
    assert fitted(run, uses_gpu=True, limit=PLENTY, gpu=None) == run
    complete = varied(run, train={"batch": 512})  # does not fit at once, but in parts, which the job chooses
    assert estimated(complete, uses_gpu=True).device > 24 * GIB > estimated(complete, uses_gpu=True).least
    assert fitted(complete, uses_gpu=True, limit=PLENTY, gpu=24 * GIB) == complete


def test_runs_that_start_from_each_other_are_narrowed_alike():
    """A denoiser with Lion takes less memory than its tuning with RAdam, but hands its weights on."""
    runs = [run for run in expand("table2", "fashion") if run.network.kind == "ddpmpp"]
    few = [estimated(kind.run, uses_gpu=False).host for kind in on_cpu(runs)]
    narrow = on_cpu(runs, limit=(min(few) + max(few)) / 2)
    assert len({kind.run.network.base_channels for kind in narrow}) == 1 and all(kind.narrowed for kind in narrow)


def test_hours_are_those_of_all_runs_in_proportion_to_their_rows():
    runs = tuple(presets.make("paper", "cifar10", Independent(), seed) for seed in (0, 1))
    kind = Kind(runs[0], runs, Length(3, 4, 6, 1, 2), Estimate(1.0, 1.0, 1.0))
    assert hours(kind, 2.0) == pytest.approx(2 * 100_000 * 2.0 * 512 / 4 / 3600)


# --- Stand-ins


@pytest.fixture
def marked(tmp_path, monkeypatch):
    """A data folder of stand-ins, which this process uses."""
    folder = tmp_path / "marked"
    folder.mkdir()
    monkeypatch.setenv("HARNESS_DATA", str(folder))
    marks.mark(folder, "paper")
    return folder


def paper_run(name, **changes):
    run = presets.make("paper", "cifar10", Independent(), 0)
    return varied(run, data={"name": name}, **changes)


def test_every_set_that_is_prepared_has_a_builder():
    assert set(BUILDERS) == {name for name, dataset in REGISTRY.items() if needs_stand_in(dataset)}


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_data_sets_are_built_in_their_official_formats_and_prepared(tmp_path, monkeypatch, name):
    notes: list[str] = []
    monkeypatch.setattr(stand_ins, "write_inception", lambda folder: "0" * 64)
    built = build([paper_run(name)], tmp_path / "data", tmp_path / "sources", tmp_path / "real", notes.append)
    assert not built.faults and built.prepared == [name] and any(name in note for note in notes)
    dataset = info(name)
    train = datasets.load(name, "train", root=tmp_path / "data")
    assert train.shape == dataset.shape and 64 <= len(train) <= 70
    assert (train.labels is not None) == bool(dataset.classes)
    assert train.rows.float().std() > 10  # pictures, not a constant
    if dataset.heldout:
        assert len(datasets.load(name, "heldout", root=tmp_path / "data")) == 24
    assert json.loads((tmp_path / "data" / name / "manifest.json").read_text())["official"] is False
    assert marks.marked(tmp_path / "data")["scale"] == "paper"
    assert not any((tmp_path / "sources").iterdir())


def test_a_set_that_cannot_be_built_is_named_and_does_not_stop_the_others(tmp_path, monkeypatch):
    def broken(path):
        raise ValueError("no such format")

    monkeypatch.setattr(stand_ins, "write_inception", lambda folder: "0" * 64)
    monkeypatch.setitem(BUILDERS, "imagenet32", ("a broken archive", broken))
    built = build([paper_run("imagenet32"), paper_run("cifar10")], tmp_path / "data", tmp_path / "s", tmp_path, lambda text: None)
    assert built.prepared == ["cifar10"] and built.faults == {"imagenet32": "ValueError: no such format"}


def test_fashion_mnist_is_only_linked_and_never_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(stand_ins, "DEBIAN", tmp_path / "none")
    run = presets.make("fashion", "fashion-mnist", Independent(), 0)
    built = build([run], tmp_path / "data", tmp_path / "s", tmp_path / "real", lambda text: None)
    assert "nothing can stand in for it" in built.faults["fashion-mnist"]
    real = tmp_path / "real" / "fashion-mnist"
    real.mkdir(parents=True)
    for stem in stand_ins.SHA256:
        (real / stem).write_bytes(b"the user's")
    assert not build([run], tmp_path / "data2", tmp_path / "s", tmp_path / "real", lambda text: None).faults
    links = sorted((tmp_path / "data2" / "fashion-mnist").iterdir())
    assert len(links) == 4 and all(link.is_symlink() and link.read_bytes() == b"the user's" for link in links)


@pytest.mark.parametrize("kind", ["ddpmpp", "edm2"])
def test_weights_have_the_format_of_the_public_files_and_load(tmp_path, kind):
    network = {**TINY, "augment_dim": 9} if kind == "ddpmpp" else {**TINY, "attention": (16,), "channels_per_head": 16}
    run = varied(presets.make("paper", "cifar10", Independent(), 0), network={**network, "kind": kind}, data={"labels": kind == "edm2"})
    write_public_weights(tmp_path / "weights" / "net.pkl", run)
    assert "torch_utils" not in sys.modules
    state, notes = load_edm_weights(tmp_path / "weights" / "net.pkl"), []
    other = build_network(run.network, (3, 32, 32), 10 if kind == "edm2" else 0, generator(7, "init"))
    load_into(other, state, "net.pkl", note=notes.append)
    original = model.preconditioned(run).model.state_dict()
    prefix, half = ("unet.", True) if kind == "edm2" else ("model.", False)
    assert all(name.startswith((prefix, "logvar_")) for name in state)
    for name, tensor in other.state_dict().items():
        expected = torch.tensor(0.5) if half and tensor.ndim == 0 else original[name]
        assert torch.equal(tensor, expected.half().float() if half else expected), name
    assert len(notes) == half
    if half:
        assert all(tensor.dtype == torch.float16 for tensor in state.values())


def test_the_inception_stand_in_has_the_real_interface_and_only_a_marked_folder_takes_it(tmp_path, monkeypatch, marked):
    monkeypatch.setattr(inception, "BATCH", 4)
    sha256 = write_inception(marked / "weights")
    assert not weights_status()[1]  # the mark does not name it yet
    marks.mark(marked, "paper", sha256)
    assert weights_status()[1] and "the stand-in of a rehearsal" in weights_status()[2]
    extractor = InceptionExtractor()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), np.uint8))
    out = extractor.extract(images)
    assert out.features.shape == (6, 2048) and out.probs.shape == (6, 1008)
    np.testing.assert_allclose(out.probs.sum(1), 1, atol=1e-5)
    assert np.abs(out.features[0] - out.features[1]).max() > 0.01  # it tells images apart
    assert extractor.protocol()["network"] == "stand-in of inception-v3-2015-12-05"
    real = tmp_path / "real"
    (real / "weights").mkdir(parents=True)
    (real / "weights" / inception.FILE).write_bytes((marked / "weights" / inception.FILE).read_bytes())
    monkeypatch.setenv("HARNESS_DATA", str(real))
    assert not weights_status()[1]
    with pytest.raises(MissingFile):
        InceptionExtractor()


def test_ffhq_has_the_names_of_the_official_folders(tmp_path):
    names = sorted(str(path.relative_to(tmp_path)) for path in ffhq_folder(tmp_path, 2).rglob("*.png"))
    assert names == ["00000/00000.png", "00000/00001.png"]


# --- Complete rehearsals


def quiet():
    return Console(quiet=True)


TWO_SEEDS = """\"\"\"Table 1 in place of the real one: GC with two seeds, of which one stands for the other.\"\"\"

from harness.config import presets
from harness.config.parts import GeneratorAugmented


def runs(scale, seeds):
    return presets.grid(scale, [GeneratorAugmented(mu=0.5)], (0, 1))
"""


def test_a_complete_rehearsal_at_the_toy_scale(tmp_path):
    """The command as a person starts it: the run in a process of its own, stopped once and resumed, its baselines, then the report."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "table1.py").write_text(TWO_SEEDS)
    folder, environment = tmp_path / "rehearsal", {**os.environ, "HARNESS_EXPERIMENTS": str(tmp_path / "experiments")}
    command = [sys.executable, "-m", "harness", "rehearse", "table1", "--scale", "toy", "--output", str(folder), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing of it is a result" in done.stdout and "Extrapolated from few steps, not measured" in done.stdout
    content = json.loads((folder / "rehearsal.json").read_text())
    (row,) = content["runs"]
    planned = [presets.make("toy", "eight-gaussians", GeneratorAugmented(mu=0.5), seed).id for seed in (0, 1)]
    assert content["passed"] and not content["other_faults"] and row["planned"] == planned
    assert row["steps"] == dict.fromkeys(STEPS, OK) and row["seconds_of_a_step"] > 0 and row["peak_bytes"] > 0
    assert row["extrapolated_device_hours"] == pytest.approx(2 * 1600 * row["seconds_of_a_step"] / 3600)
    run = Store(folder / "results").folder(row["run"])
    assert [attempt["step"] for attempt in run.attempts()] == [0, 11]  # stopped after step 11, resumed there
    assert {record["run"] for record in run.records()} == {row["run"]} and row["run"].startswith("rehearsal-")
    assert not run.stored_steps()  # checkpoints are removed
    page = (folder / "results" / "report.html").read_text()
    assert "This is a rehearsal" in page and "No claim is judged" in page and not (folder / "data").exists()
    written = pd.read_csv(folder / "results" / "tables" / "table1-toy.csv")
    assert len(written) > 3 and set(written.records) == {"rehearsal"}
    assert "NOT A RESULT" in (folder / "results" / "tables" / "table1-toy.md").read_text()


ONE_RUN = """\"\"\"Figure 2 in place of the real one: ECT with GC on CIFAR-10 from EDM's weights, with a narrow network.\"\"\"

from harness.config import ablations
from harness.config.parts import GeneratorAugmented
from harness.config.run import varied


def runs(scale, seeds):
    run = ablations.ect("paper", "cifar10", "short", GeneratorAugmented(mu=0.3), 0)[-1]
    return [varied(run, network={network}, evaluation={{"times": ()}})]
"""


def test_a_complete_rehearsal_on_stand_ins(tmp_path, monkeypatch):
    """The paper scale: archive, prepared data, EDM's weights, Inception. As a study, which has no baselines: these take long."""
    (tmp_path / "experiments").mkdir()
    network = {**TINY, "augment_dim": 9}
    (tmp_path / "experiments" / "figure2.py").write_text(ONE_RUN.format(network=network))
    monkeypatch.setenv("HARNESS_EXPERIMENTS", str(tmp_path / "experiments"))
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "no data of the user's"))
    folder = tmp_path / "rehearsal"
    code = rehearse(Options(Selection("figure2", "paper"), folder, "cpu"), quiet())
    content = json.loads((folder / "rehearsal.json").read_text())
    assert code == 0 and content["passed"], content
    (row,) = content["runs"]
    assert row["steps"] == dict.fromkeys(STEPS, OK) and row["training_steps"] == 3 and row["rows"] == 2
    assert row["rehearsal"] == "few steps; stand-ins for the data set, the Inception network, the weights edm-cifar10-32x32-uncond-vp.pkl"
    records = Store(folder / "results").folder(row["run"]).records()
    assert {"fid", "kid", "is", "endpoint_fid"} <= {record["metric"] for record in records}
    assert os.environ["HARNESS_DATA"].endswith("user's") and not (tmp_path / "no data of the user's").exists()


def test_a_step_that_breaks_is_named_and_the_exit_code_is_one(tmp_path, monkeypatch):
    """The network of the weights is another one, so that the job fails before its first step."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "figure2.py").write_text(ONE_RUN.format(network={**TINY, "augment_dim": 9}))
    monkeypatch.setenv("HARNESS_EXPERIMENTS", str(tmp_path / "experiments"))

    def other_network(path, run):
        write_public_weights(path, varied(run, network={"base_channels": 32}))

    monkeypatch.setattr(stand_ins, "write_public_weights", other_network)
    folder = tmp_path / "rehearsal"
    with (tmp_path / "out.txt").open("w") as out:
        assert rehearse(Options(Selection("figure2", "paper"), folder, "cpu"), Console(file=out, width=10_000)) == 1
    printed = (tmp_path / "out.txt").read_text()
    (row,) = json.loads((folder / "rehearsal.json").read_text())["runs"]
    failed = [step for step in STEPS if row["steps"][step] not in (OK, NONE)]
    assert failed == ["train", "checkpoint", "resume", "evaluate", "report"]
    assert "wrong shape" in row["steps"]["train"] and "log.txt" in row["steps"]["train"]
    assert "What broke:" in printed and "cifar10-ect-gc-0.3-s0" in printed.partition("What broke:")[2]
    assert (folder / "data" / "weights").is_dir()  # kept for a look at what broke


def test_steps_that_were_not_reached_do_not_pass(tmp_path):
    found = on_cpu([presets.make("toy", "eight-gaussians", Independent(), 0)])
    (outcome,) = outcomes(found, Store(tmp_path), {}, {"eight-gaussians": "no such data"}, {})
    assert not outcome.passed and outcome.steps["doctor"] == "eight-gaussians: no such data"
    assert set(outcome.faults) == {"doctor", "train", "checkpoint", "resume", "evaluate"}
    assert "unknown for 1" in hours_line([outcome], "a processor")
    assert summary([outcome], {"passed": False})["runs"][0]["extrapolated_device_hours"] is None


# --- Bad input


def refused(tmp_path, *words):
    command = [sys.executable, "-m", "harness", "rehearse", *words]
    environment = {**os.environ, "HARNESS_RESULTS": str(tmp_path / "results")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "results").exists()
    return done.stderr


def test_bad_input_is_one_message_before_anything_is_written(tmp_path, monkeypatch):
    assert "table1" in refused(tmp_path, "tabel1")


def check(tmp_path, match, **changes):
    options = {"selection": Selection("table1", "toy"), "folder": tmp_path / "new", "device": "cpu"}
    with pytest.raises(HarnessError, match=match) as caught:
        rehearse(Options(**(options | changes)), quiet())
    assert not (tmp_path / "new").exists()
    return caught.value


def test_folders_memory_devices_and_disks_that_cannot_be_used(tmp_path, monkeypatch):
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("mine")
    assert check(tmp_path, "the folder is not empty", folder=full).details["where"] == "--output"
    assert (full / "thesis.tex").read_text() == "mine" and len(list(full.iterdir())) == 1
    for memory in (0.0, -1.0, float("nan"), float("inf")):
        assert check(tmp_path, "memory out of range", memory=memory).details["where"] == "--memory"
    check(tmp_path, "unknown scale", selection=Selection("table1", "papers"))
    monkeypatch.setattr(places.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    check(tmp_path, "the disk is too small")
    if not torch.cuda.is_available():
        check(tmp_path, "no GPU is available here", device="cuda")


# --- Doors: nothing of a rehearsal reaches results


def real_run(seed=0):
    return presets.make("toy", "eight-gaussians", Independent(), seed)


def rehearsed_run(seed=0):
    return on_cpu([real_run(seed)])[0].run


def test_the_identity_of_a_real_run_does_not_know_rehearsals_and_that_of_a_rehearsal_is_another():
    run = real_run()
    config = run.to_dict()
    assert config.pop("rehearsal") is None
    marked_run = Run.model_validate({**run.model_dump(), "rehearsal": "few steps"})
    assert marked_run.id != run.id and marked_run.id.startswith("rehearsal-eight-gaussians-ic-s0-")
    assert identity_digest(config) == run.digest  # configs from before there was the key


@pytest.fixture
def mixed(tmp_path):
    """A results folder with Table 1 of the toy scale, into which somebody has copied finished runs and baselines of a rehearsal."""
    make_results(tmp_path, "table1", "toy", (0,))
    kinds_of_it = on_cpu(expand("table1", "toy", (0,)))
    for kind in kinds_of_it:
        make_run(tmp_path, kind.run)
    (job,) = baseline_jobs([kinds_of_it[0].run])
    folder = RunFolder.create(tmp_path, job.id, job.to_dict())
    folder.write_result({"step": 1, "seconds": 2.0})
    rows = [{"row": "noise", "metric": "w2", "value": 1e-9, "sd": 0.0, "se": 0.0, "n": 6, "resamplings": 1, "protocol": "d" * 12}]
    content = {"format": 1, "scale": "toy", "data": "eight-gaussians", "protocols": {"d" * 12: {}}, "rows": rows}
    (folder.path / "baselines.json").write_text(json.dumps({**content, "rehearsal": job.rehearsal}))
    return tmp_path


def test_the_report_takes_no_run_and_no_baselines_of_a_rehearsal(mixed, capsys):
    loaded = load.read(mixed)
    assert len(loaded.runs) == 3 and not any(entry.run.rehearsal for entry in loaded.runs.values())
    assert not loaded.frame.run.astype(str).str.startswith("rehearsal-").any()
    assert len(loaded.baselines) == 1 and all(row["value"] > 1e-6 for row in loaded.baselines[0].rows)
    assert sum("is of a rehearsal; left out" in text for text in loaded.damage) == 4
    produce.everything(mixed)
    printed = capsys.readouterr().out
    assert "is of a rehearsal; left out" in printed and "NOT A RESULT" not in printed
    for path in [*mixed.glob("tables/*"), *mixed.glob("figures/*.csv")]:
        assert "rehearsal" not in path.read_text(), path
    before_left_out = (mixed / "report.html").read_text().partition('id="damage"')[0]
    assert "rehearsal-eight" not in before_left_out and "This is a rehearsal" not in before_left_out


def test_the_report_of_a_rehearsal_takes_nothing_else_and_judges_nothing(mixed, capsys):
    loaded = load.read(mixed, "own", "toy", rehearsal=True)
    assert len(loaded.runs) == 3 and all(entry.run.rehearsal for entry in loaded.runs.values())
    assert loaded.label == rehearsed.REHEARSAL == loaded.label_of([])
    produce.everything(mixed, "toy", "own", rehearsal=True)
    printed = capsys.readouterr().out
    page = (mixed / "report.html").read_text()
    assert "NOT A RESULT" in printed and "This is a rehearsal" in page
    assert 'id="claim-' not in page  # no claim is judged


def test_nothing_of_a_rehearsal_is_published_or_read_from_what_is_published(mixed, tmp_path):
    target = tmp_path / "published here"
    publish(Selection("table1", "toy", (0,)), mixed, target, allow_uncommitted=True)
    place = target / "published" / "toy"
    runs = json.loads((place / "runs.json").read_text())["runs"]
    assert len(runs) == 3 and not any(name.startswith("rehearsal-") for name in runs)
    assert not any(path.name.startswith("rehearsal") for path in place.rglob("*"))
    run = rehearsed_run()
    facts = {**next(iter(runs.values())), "config": run.to_dict()}
    (place / "digests.json").unlink()
    (place / "runs.json").write_text(json.dumps({"format": 1, "runs": {**runs, run.id: facts}}))
    loaded = load.read(target, "published")
    assert len(loaded.runs) == 3 and any("is of a rehearsal; left out" in text for text in loaded.damage)


def test_only_rehearsed_runs_are_no_finished_runs_for_publish(tmp_path):
    make_run(tmp_path, rehearsed_run())
    with pytest.raises(HarnessError, match="no finished runs"):
        publish(Selection("table1", "toy", (0,)), tmp_path, allow_uncommitted=True)


def test_plan_and_status_of_real_runs_take_neither_state_nor_rate_of_a_rehearsal(tmp_path):
    run = real_run()
    folder = make_run(tmp_path, rehearsed_run())
    store = Store(tmp_path)
    assert folder.state() is State.DONE
    plan = make_plan([run], store)
    assert [(row.state, row.action, row.hours) for row in plan.rows] == [(State.NEW, Action.START, None)]
    same = varied(run, train={"steps": 1600}).model_copy(update={"rehearsal": "few steps"})  # of the same rate, if it counted
    make_run(tmp_path, same)
    assert make_plan([run], store).rows[0].hours is None
    make_run(tmp_path, real_run(seed=1))
    assert make_plan([run], store).rows[0].hours == pytest.approx(1600 / 80 / 3600)
    rows = status_of(store)
    assert [row.state for row in status_of(store, [run])] == [State.NEW]
    assert "1 done" in totals(rows) and "2 of a rehearsal" in totals(rows)
    assert "of a rehearsal, no result" in str(table(rows))


def test_a_rehearsed_run_is_not_measured_and_no_denoiser_of_one_is_used(tmp_path):
    folder = make_run(tmp_path, rehearsed_run())
    with pytest.raises(HarnessError, match="a run of a rehearsal is no result"):
        trained_runs.load(folder)
    gc = presets.make("toy", "eight-gaussians", GeneratorAugmented(mu=0.5), 0)
    denoiser = presets.denoiser("toy", "eight-gaussians", gc.coupling.model_copy(update={"predictor": "frozen", "frozen": gc.id}), 0)
    make_run(tmp_path, denoiser.model_copy(update={"rehearsal": "few steps"}), rows=[])
    context = StudyContext("toy", Store(tmp_path), (), torch.device("cpu"))
    with pytest.raises(HarnessError, match="known only from a denoiser"):
        single_run.denoiser_of(gc, context)


def test_real_jobs_refuse_stand_ins_and_rehearsed_jobs_refuse_everything_else(tmp_path, monkeypatch, marked, capsys):
    run, rehearsed = real_run(), rehearsed_run()
    (job,) = baseline_jobs([run])
    for real in (run, job):
        folder = RunFolder.create(tmp_path / "results", real.id, real.to_dict())
        assert run_job(folder.path, "cpu") == ExitCode.BAD_INPUT
        assert "the data folder holds the stand-ins of a rehearsal" in folder.error()["message"]
        with pytest.raises(HarnessError, match="stand-ins of a rehearsal"):
            marks.check(real)
    assert any("stand-ins of a rehearsal" in text for text in absent([run])) and not absent([rehearsed])
    (finding,) = [found for found in doctor([run], Store(tmp_path / "results"), "local") if found.what == "data folder"]
    assert finding.verdict == "missing"
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "real"))
    folder = RunFolder.create(tmp_path / "results", rehearsed.id, rehearsed.to_dict())
    assert run_job(folder.path, "cpu") == ExitCode.BAD_INPUT
    assert "belongs to a rehearsal" in folder.error()["message"]
    assert not folder.records() and not folder.stored_steps()


def test_a_damaged_mark_is_no_permission(marked):
    (marked / marks.NAME).write_text("{")
    for job in (real_run(), rehearsed_run()):
        with pytest.raises(HarnessError):
            marks.check(job)
