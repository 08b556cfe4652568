"""Feature networks of one's own and of timm (--features), against independent computations; what does not fit the interface is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import sqrtm

from harness import cli
from harness.config import presets
from harness.config.own_classes import named
from harness.config.parts import Independent
from harness.config.run import varied
from harness.data import datasets
from harness.errors import HarnessError
from harness.metrics import own_features
from harness.metrics.own_features import KNOWN, OwnExtractor, VisionTransformer, build
from harness.store import measurements
from harness.store.runs import RunFolder
from harness.training import job, trained_runs
from harness.training.evaluation import generate_samples

OWN = '''
import torch

class Pixels:
    """Eight random projections of the pixels."""

    def __init__(self, device):
        self.matrix = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)).to(device)

    def __call__(self, images):
        return images.float().flatten(1) / 255 @ self.matrix


class Base:
    def __init__(self, device): pass

class Changes(Base):
    def __call__(self, images):
        images.zero_()
        return torch.zeros(len(images), 2)

class Short(Base):
    def __call__(self, images): return torch.zeros(1, 2)

class Flat(Base):
    def __call__(self, images): return torch.zeros(len(images))

class Whole(Base):
    def __call__(self, images): return images.flatten(1)

class Nan(Base):
    def __call__(self, images): return torch.full((len(images), 2), float("nan"))

class Fails(Base):
    def __call__(self, images): raise KeyError("weights")

class Exits(Base):
    def __init__(self, device): raise SystemExit(0)

class Two(Base):
    def __call__(self, images): return torch.zeros(len(images), 2), torch.zeros(3, 2)
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_TRUST", "")  # so that what the test sets is undone
    (tmp_path / "own.py").write_text(OWN)
    return lambda name: named(f"{tmp_path / 'own.py'}:{name}", KNOWN, "--features")


def test_the_distance_of_a_run_by_features_of_ones_own(own, tmp_path, capsys):
    run = presets.make("digits", "digits", Independent(), 0)
    run = varied(
        run, train={"steps": 4, "batch": 8}, evaluation={"samples": 150, "every": 4, "resamplings": 2}, network={"base_channels": 4}
    )
    folder = RunFolder.create(tmp_path, run.id, run.to_dict())
    assert job.run_job(folder.path, "cpu") == 0
    text = f"{own('Pixels').path}:Pixels"
    arguments = ["measure", run.id, "--results", str(tmp_path), "--device", "cpu"]
    assert cli.main([*arguments, "--what", "metrics", "--features", text]) == 0
    rows = measurements.read_file(next(tmp_path.rglob(f"measured/**/{run.id}.csv")), "digits").set_index("quantity")
    assert {"fid", "fid@Pixels", "kid@Pixels", "recall@Pixels"} <= set(rows.index) and "is@Pixels" not in rows.index
    assert rows.protocol["fid"] != rows.protocol["fid@Pixels"]
    assert rows.value["fid"] == pytest.approx(rows.truth["fid"], rel=1e-9)

    trained = trained_runs.load(folder)
    matrix = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)).double()
    real = datasets.load("digits").rows.double().flatten(1) / 255 @ matrix
    found = []
    for k in range(2):
        levels = ((generate_samples(run, trained.data, trained.network)(k, range(150)).clamp(-1, 1) + 1) / 2 * 255).round()
        made = levels.double().flatten(1) / 255 @ matrix
        a, b = np.cov(real.numpy().T), np.cov(made.numpy().T)
        found.append(float(((real.mean(0) - made.mean(0)) ** 2).sum()) + np.trace(a + b - 2 * sqrtm(a @ b).real))
    assert rows.value["fid@Pixels"] == pytest.approx(np.mean(found), rel=1e-4)
    capsys.readouterr()
    assert cli.main([*arguments, "--features", text]) == 2
    assert "--what metrics" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Changes", "must not change"), ("Short", r"\(1, 2\)"), ("Flat", "tensor"), ("Whole", "uint8"), ("Nan", "finite"),
        ("Fails", "KeyError"), ("Exits", "SystemExit"), ("Two", "probabilities"),
    ],
)  # fmt: skip
def test_what_is_no_feature_network_is_one_message(own, name, said):
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    with pytest.raises(HarnessError, match=said):
        build(own(name)).extract(images)


def test_features_do_not_depend_on_how_images_are_batched(own):
    images = torch.randint(0, 256, (230, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    extractor = OwnExtractor(own("Pixels"), "cpu")
    whole, parts = extractor.extract(images), extractor.extract(images.split(7))
    assert np.array_equal(whole.features, parts.features) and whole.probs.shape == (230, 1)


TINY = VisionTransformer(
    "vit_tiny_patch16_224", "tiny.pth", "here", 32, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4),
    (("img_size", 32), ("num_classes", 0), ("depth", 1), ("embed_dim", 24), ("num_heads", 2)),
)  # fmt: skip


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    monkeypatch.setitem(own_features.TRANSFORMERS, "dinov2", TINY)
    (tmp_path / "weights").mkdir()
    torch.manual_seed(0)
    network = timm.create_model(TINY.architecture, **dict(TINY.options)).eval()
    torch.save(network.state_dict(), tmp_path / "weights" / "tiny.pth")
    return network


def test_a_vision_transformer_gets_resized_and_normalised_images(tiny):
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    extractor = build(named("dinov2", KNOWN, "--features"))
    resized = F.interpolate(images.double().repeat(1, 3, 1, 1) / 255, (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (TINY.mean, TINY.std))
    wanted = tiny.double()((resized - mean) / std).detach().numpy()
    assert extractor.extract(images).features == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    assert extractor.protocol()["network"] == TINY.architecture and len(str(extractor.protocol()["sha256"])) == 64


def test_weights_that_are_missing_or_of_another_network_are_named(tiny, tmp_path, monkeypatch):
    torch.save({"cls_token": torch.zeros(1, 1, 24)}, tmp_path / "weights" / "tiny.pth")
    with pytest.raises(HarnessError, match="not the weights"):
        build(named("dinov2", KNOWN, "--features"))
    (tmp_path / "weights" / "tiny.pth").unlink()
    with pytest.raises(HarnessError) as error:
        build(named("dinov2", KNOWN, "--features"))
    assert "tiny.pth" in str(error.value.details["where"])
    torch.save({}, tmp_path / "weights" / "tiny.pth")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(HarnessError) as error:
        build(named("dinov2", KNOWN, "--features"))
    assert "consistency-harness[features]" in error.value.details["nearest"]


def test_the_public_networks_have_the_dimensions_of_their_definitions():
    timm = pytest.importorskip("timm")
    for settings, dim in ((own_features.DINOV2, 1024), (own_features.CLIP, 768)):
        with torch.device("meta"):
            network = timm.create_model(settings.architecture, pretrained=False, **dict(settings.options))
            assert network(torch.zeros(1, 3, settings.size, settings.size)).shape == (1, dim)
