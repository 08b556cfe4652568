"""The Inception extractor, with a small TorchScript file that has the interface of the real one."""

import hashlib
import urllib.request

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from harness.errors import DamagedFile, HarnessError, MissingFile
from harness.metrics import inception
from harness.metrics.extractors import extractor
from harness.metrics.inception import FILE, InceptionExtractor, fetch, weights_path, weights_status


class Stand(nn.Module):
    """forward(x in [0, 255], return_features, no_output_bias), .layers, .output, as inception-2015-12-05.pt has them."""

    def __init__(self, extra: int = 0):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2048), nn.ReLU())
        self.output = nn.Linear(2048, 7)
        if extra:
            self.register_buffer("table", torch.zeros(extra, 2048))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=draw) * (0.05 if parameter.ndim > 1 else 1.0)

    def forward(self, x: torch.Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False):
        x = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        features = self.layers((x - 128) / 128)
        if return_features:
            return features
        logits = F.linear(features, self.output.weight)
        if not no_output_bias:
            logits = logits + self.output.bias
        return logits.softmax(1)


BATCH = 8  # 100 in production, slow at 299 x 299


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(inception, "BATCH", BATCH)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Stand-ins whose output layer is (0), or is not (1), the only matrix of its shape: path and sha256 of each."""
    stands = []
    for extra in (0, 3):
        path = tmp_path_factory.mktemp("weights") / FILE
        torch.jit.save(torch.jit.script(Stand(extra)), str(path))
        stands.append((path, hashlib.sha256(path.read_bytes()).hexdigest()))
    return stands


def images(n, channels=3, size=8, seed=0):
    return torch.randint(0, 256, (n, channels, size, size), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


@pytest.mark.parametrize("which, way", [(0, "one_pass"), (1, "second_pass")])
def test_legacy_tensorflow_gives_the_networks_own_features_and_probabilities(files, which, way):
    path, sha256 = files[which]
    inception_extractor = InceptionExtractor("legacy_tensorflow", path=path, sha256=sha256)
    assert inception_extractor.probabilities.__name__ == way
    x = images(BATCH + 3)
    out, base = inception_extractor.extract(x), torch.jit.load(str(path))
    with torch.no_grad():
        np.testing.assert_allclose(out.features, base(x.float(), return_features=True), atol=1e-5)
        np.testing.assert_allclose(out.probs, base(x.float(), no_output_bias=True), atol=1e-5)
    assert out.features.shape == (BATCH + 3, 2048) and out.probs.shape == (BATCH + 3, 7)
    assert np.abs(out.probs - base(x.float()).detach().numpy()).max() > 0.01  # the bias would have mattered


def test_clean_resizes_with_pil_bicubic_in_float_and_normalises(files):
    path, sha256 = files[0]
    x = images(3)
    out = InceptionExtractor("clean", path=path, sha256=sha256).extract(x)

    def resize(channel):
        return np.asarray(Image.fromarray(channel.astype(np.float32)).resize((299, 299), Image.BICUBIC)).clip(0, 255)

    resized = [[resize(channel) for channel in image] for image in x.numpy()]
    base = torch.jit.load(str(path))
    with torch.no_grad():
        truth = base.layers((torch.tensor(np.array(resized)) - 128) / 128)
    np.testing.assert_allclose(out.features, truth, atol=1e-5)
    np.testing.assert_allclose(out.probs.sum(1), 1, atol=1e-5)
    legacy = InceptionExtractor("legacy_tensorflow", path=path, sha256=sha256).extract(x)
    assert np.abs(out.features - legacy.features).max() > 1e-3  # the modes are not the same metric


def test_features_do_not_depend_on_how_images_arrive(files):
    path, sha256 = files[0]
    inception_extractor, x = InceptionExtractor(path=path, sha256=sha256), images(BATCH + 20)
    at_once = inception_extractor.extract(x)
    parts = inception_extractor.extract(iter([x[:3], x[3:20], x[20:]]))
    alone = inception_extractor.extract(x[BATCH + 19 :])
    np.testing.assert_array_equal(at_once.features, parts.features)
    np.testing.assert_array_equal(at_once.probs, parts.probs)
    np.testing.assert_array_equal(at_once.features[-1:], alone.features)  # batches are always full


def test_grey_images_count_as_three_equal_channels(files):
    path, sha256 = files[0]
    inception_extractor, x = InceptionExtractor(path=path, sha256=sha256), images(2, channels=1)
    np.testing.assert_array_equal(inception_extractor.extract(x).features, inception_extractor.extract(x.repeat(1, 3, 1, 1)).features)


def test_protocol_names_weights_mode_and_batch(files):
    path, sha256 = files[0]
    protocol = InceptionExtractor("clean", path=path, sha256=sha256).protocol()
    assert protocol == {"network": "inception-v3-2015-12-05", "sha256": sha256, "mode": "clean", "batch": BATCH, "dim": 2048}


def test_no_images_is_an_error(files):
    with pytest.raises(ValueError, match="no images"):
        InceptionExtractor(path=files[0][0], sha256=files[0][1]).extract(iter([]))


def test_missing_and_wrong_weights_are_reported_and_never_fetched(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise AssertionError("a run must not download")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    assert weights_path() == tmp_path / "weights" / FILE
    path, ok, message = weights_status()
    assert not ok and "missing" in message and path == weights_path()
    with pytest.raises(MissingFile):
        extractor("cifar10")
    path.parent.mkdir()
    path.write_bytes(b"truncated")
    assert not weights_status()[1] and "sha256" in weights_status()[2]
    with pytest.raises(HarnessError) as error:
        InceptionExtractor("clean")
    assert str(path) in str(error.value)


def test_fetch_is_atomic_and_checked(files, tmp_path, monkeypatch):
    source, sha256 = files[0]
    url, target = source.as_uri(), tmp_path / "new" / FILE
    assert fetch(target, url, sha256) == target and weights_status(target, sha256)[1]
    monkeypatch.setattr(inception.urllib.request, "urlopen", None)
    assert fetch(target, url, sha256) == target  # a valid file is left alone


def test_fetch_leaves_no_incomplete_file(files, tmp_path):
    url = files[0][0].as_uri()
    target = tmp_path / FILE
    target.write_bytes(b"something older")
    with pytest.raises(DamagedFile):
        fetch(target, url, "0" * 64)
    with pytest.raises(MissingFile):
        fetch(target, (tmp_path / "nothing.pt").as_uri(), "0" * 64)
    assert [path.name for path in tmp_path.iterdir()] == [FILE] and target.read_bytes() == b"something older"
    with pytest.raises(HarnessError):
        fetch(target / "below a file" / FILE, url, "0" * 64)
