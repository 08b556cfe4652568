"""A data set that was prepared without held-out images: it trains, its baselines say what is missing, and the doctor says it before."""

from __future__ import annotations

import json

import pytest
import torch
from archives import celeba_folder, church_lmdb, run

from harness.config.baselines import BaselineJob
from harness.config.parts import Data, Evaluation, Network, Training
from harness.config.run import Run
from harness.data import datasets
from harness.data.catalogue import info
from harness.errors import HarnessError
from harness.metrics import baselines, reference_statistics
from harness.metrics.features import Features
from harness.reporting import load
from harness.store.exit_codes import ExitCode
from harness.store.runs import RunFolder, Store
from harness.sweep import doctor as doctor_module
from harness.sweep.doctor import absent, doctor
from harness.training.job import run_job

JOB = BaselineJob(scale="paper", data="church64", samples=40, resamplings=2, sample_range="paper", quantisation="paper")
RUN = Run(
    scale="paper",
    data=Data(name="church64"),
    network=Network(kind="ddpmpp", base_channels=4, channel_mult=(1, 1, 1, 1), num_blocks=(1, 1, 1, 1), dropout=(0.0, 0.0, 0.0, 0.0)),
    train=Training(steps=2, batch=4, lr=1e-3),
    evaluation=Evaluation(every=2, samples=8, grid=4, resamplings=1),
)


class Means:
    """Stands for Inception: the features are the means of four stripes of the image, the classes the brightest stripe."""

    device = torch.device("cpu")

    def protocol(self) -> dict[str, object]:
        return {"network": "means"}

    def extract(self, images) -> Features:
        images = images if isinstance(images, torch.Tensor) else torch.cat(list(images))
        stripes = images.float().flatten(1).view(len(images), 4, -1).mean(2) / 255
        return Features(stripes.numpy(), (5 * stripes).softmax(1).numpy())


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(doctor_module, "slurm_answers", lambda: False)
    monkeypatch.setattr(reference_statistics, "extractor", lambda name, device: Means())
    return Store(tmp_path / "results")


def church(tmp_path, held_out: int) -> None:
    """Thirty training images, prepared alone or with held-out images beside them."""
    base = church_lmdb(tmp_path / f"lsun-{held_out}", count=30, held_out=held_out or 2)
    run("church64", base if held_out else base / "church_outdoor_train_lmdb", tmp_path / "data")


def findings(store: Store, job: Run) -> dict:
    return {finding.what: finding for finding in doctor([job], store)}


def measured(store: Store) -> dict:
    folder = RunFolder.create(store.root, JOB.id, JOB.to_dict())
    assert run_job(folder.path, "cpu") == ExitCode.DONE
    return json.loads((folder.path / "baselines.json").read_text())


def test_it_trains_and_the_baselines_and_the_doctor_say_what_is_missing(store, tmp_path, capsys):
    church(tmp_path, held_out=0)
    assert datasets.verify("church64") == "church64: 30 train" and absent([JOB]) == ["no Inception weights"]
    rows = findings(store, RUN)
    assert rows["data set church64"].verdict == "ok"
    finding = rows["held-out images of church64"]
    assert finding.verdict == "warn" and "not prepared" in finding.detail
    assert str(tmp_path / "data" / "church64") in finding.fix and info("church64").fix in finding.fix
    folder = RunFolder.create(store.root, RUN.id, RUN.to_dict())
    assert run_job(folder.path, "cpu") == ExitCode.DONE
    content = measured(store)
    assert {row["row"] for row in content["rows"]} == {"noise", "train-resampled"}, "12,288 values: no Gaussian fit"
    assert content["absent"].keys() == {"heldout"} and "held-out images: not prepared" in content["absent"]["heldout"]
    assert content["absent"]["heldout"] in capsys.readouterr().out
    (loaded,) = load.read(store.root).baselines
    assert loaded.absent == content["absent"]


def test_with_held_out_images_nothing_is_missing(store, tmp_path):
    church(tmp_path, held_out=24)
    assert "held-out images of church64" not in findings(store, RUN)
    content = measured(store)
    assert content["absent"] == {}
    fid = {row["row"]: row for row in content["rows"] if row["metric"] == "fid"}
    assert fid["heldout"]["n"] == 24 and fid["heldout-at-n"]["n"] == fid["noise"]["n"] == 40


def test_too_few_held_out_images_are_not_measured(store, tmp_path):
    church(tmp_path, held_out=3)
    finding = findings(store, RUN)["held-out images of church64"]
    assert finding.verdict == "warn" and "3" in finding.detail and str(baselines.LEAST_HELDOUT) in finding.detail
    assert "too few" in measured(store)["absent"]["heldout"]


def test_a_held_out_part_without_any_image_is_as_good_as_none(store, tmp_path):
    """CelebA's list of partitions that names training images only."""
    base = celeba_folder(tmp_path / "celeba", count=4)
    (base / "list_eval_partition.txt").write_text("".join(f"{number + 1:06d}.jpg 0\n" for number in range(4)))
    run("celeba64", base / "img_align_celeba", tmp_path / "data")
    assert len(datasets.load("celeba64")) == 4 and datasets.row_count("celeba64", "heldout") == 0
    rows = findings(store, RUN.model_copy(update={"data": Data(name="celeba64")}))
    assert rows["data set celeba64"].verdict == "ok" and rows["held-out images of celeba64"].verdict == "warn"


def test_a_set_that_has_none_and_one_that_is_not_prepared(store, monkeypatch):
    monkeypatch.setattr(baselines, "row_count", lambda name, split: 0)
    reason, fix = baselines.why_no_heldout("ffhq64")
    assert reason and not fix, "nothing can be done about it"
    monkeypatch.undo()
    with pytest.raises(HarnessError, match="not prepared"):
        baselines.why_no_heldout("church64")
    assert baselines.why_no_heldout("digits") == baselines.why_no_heldout("two-moons") == ("", "")
