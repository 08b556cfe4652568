"""The classifiers in the package: the weights agree with their manifest, and training is a function of its recipe."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch

from harness.data.datasets import load as load_dataset
from harness.errors import HarnessError, UnknownName
from harness.metrics import classifier
from harness.metrics.classifier import RECIPES, SHIPPED, ClassifierExtractor, load, to_float, train
from harness.metrics.extractors import extractor
from harness.metrics.features import quantise
from harness.metrics.quality import inception_score

SHORT = dataclasses.replace(RECIPES["digits"], widths=(4, 8), dim=6, steps=3)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", "train")


@pytest.mark.parametrize("name, accuracy, score", [("digits", 0.985, 9.7), ("fashion-mnist", 0.9, 7.0)])
def test_shipped_weights_are_those_of_their_manifest(name, accuracy, score):
    path, manifest = SHIPPED / f"{name}.pt", json.loads((SHIPPED / f"{name}.json").read_text())
    assert path.stat().st_size < 300_000
    assert hashlib.sha256(path.read_bytes()).hexdigest() == manifest["sha256"]
    assert manifest["recipe"] == json.loads(json.dumps(dataclasses.asdict(RECIPES[name])))
    assert manifest["heldout"]["accuracy"] >= accuracy and manifest["heldout"]["inception_score"] >= score
    loaded = load(name)
    assert loaded.sha256 == manifest["sha256"] and not loaded.network.training


def test_digits_accuracy_and_inception_score_are_as_stated(digits):
    manifest, digits_extractor = json.loads((SHIPPED / "digits.json").read_text()), extractor("digits")
    for data in (digits, load_dataset("digits", "heldout")):
        probs, stated = torch.from_numpy(digits_extractor.extract(data.rows).probs), manifest[data.split]
        assert stated["sha256"] == data.sha256 and stated["n"] == len(data)
        assert (probs.argmax(1) == data.labels).double().mean().item() == pytest.approx(stated["accuracy"], abs=1e-5)
        assert inception_score(probs, 1) == pytest.approx(stated["inception_score"], abs=1e-3)
    assert manifest["train"]["inception_score"] > 9.9


def test_fashion_accuracy_is_as_stated():
    try:
        data = load_dataset("fashion-mnist", "heldout", limit=1000)
    except HarnessError as error:
        pytest.skip(f"no Fashion-MNIST here: {error.what}")
    stated = json.loads((SHIPPED / "fashion-mnist.json").read_text())["heldout"]["accuracy"]
    accuracy = (extractor("fashion-mnist").extract(data.rows).probs.argmax(1) == data.labels.numpy()).mean()
    assert abs(accuracy - stated) < 4 * np.sqrt(stated * (1 - stated) / 1000)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_noise_is_not_assigned_to_a_class(name):
    size, draw = RECIPES[name].size, torch.Generator().manual_seed(0)
    gaussian = quantise(torch.randn(300, 1, size, size, generator=draw))
    uniform = torch.randint(0, 256, gaussian.shape, generator=draw).to(torch.uint8)
    measuring = extractor(name)
    for images in (gaussian, uniform):
        assert inception_score(measuring.extract(images).probs, 1) < 1.1


def test_training_is_a_function_of_recipe_and_data(digits):
    threads = torch.get_num_threads()
    torch.manual_seed(1)
    first = train(SHORT, digits.rows, digits.labels).state_dict()
    torch.manual_seed(2)
    try:
        torch.set_num_threads(3)
        again = train(SHORT, digits.rows, digits.labels).state_dict()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    other = train(dataclasses.replace(SHORT, seed=1), digits.rows, digits.labels).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_a_short_training_already_learns(digits):
    heldout = load_dataset("digits", "heldout")
    network = train(dataclasses.replace(RECIPES["digits"], steps=100), digits.rows, digits.labels)
    probs = ClassifierExtractor(network, "none").extract(heldout.rows).probs
    assert (probs.argmax(1) == heldout.labels.numpy()).mean() > 0.9


def test_augmentation_shifts_a_third_of_the_rows_by_the_given_pixels():
    x = torch.full((2000, 1, 8, 8), -1.0)
    x[:, :, 4, 3] = 1.0
    moved = classifier._augment(x, 1, torch.Generator().manual_seed(0))
    row, column = np.unravel_index(moved.flatten(1).argmax(1).numpy(), (8, 8))
    assert set(row) == {3, 4, 5} and set(column) == {2, 3, 4}
    assert ((row != 4) | (column != 3)).mean() == pytest.approx(8 / 27, abs=0.04)
    assert moved.min() == -1 and moved.max() == 1


def test_features_are_bounded_and_do_not_depend_on_how_images_arrive(digits):
    measuring = extractor("digits")
    at_once = measuring.extract(digits.rows)
    parts = measuring.extract(iter(digits.rows.split([100, 5, 600, 732])))
    np.testing.assert_array_equal(at_once.features, parts.features)
    np.testing.assert_array_equal(at_once.probs, parts.probs)
    assert at_once.features.shape == (1437, RECIPES["digits"].dim) and np.abs(at_once.features).max() <= 1
    np.testing.assert_allclose(at_once.probs.sum(1), 1, atol=1e-5)
    assert len(at_once) == 1437


def test_extract_refuses_other_input(digits):
    for bad in (digits.rows.float(), digits.rows[0]):
        with pytest.raises(ValueError, match="uint8"):
            extractor("digits").extract(bad)
    with pytest.raises(ValueError, match="no images"):
        extractor("digits").extract(iter([]))


def test_protocol_names_the_weights():
    protocol = extractor("digits").protocol()
    assert protocol["sha256"] == json.loads((SHIPPED / "digits.json").read_text())["sha256"]
    assert protocol["mode"] == "classifier" and protocol["dim"] == RECIPES["digits"].dim


def test_levels_become_minus_one_to_one():
    assert torch.equal(to_float(torch.tensor([0, 255], dtype=torch.uint8)), torch.tensor([-1.0, 1.0]))


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    for name in ("digits.pt", "digits.json"):
        (tmp_path / name).write_bytes((SHIPPED / name).read_bytes())
    monkeypatch.setattr(classifier, "SHIPPED", tmp_path)
    data = bytearray((tmp_path / "digits.pt").read_bytes())
    data[1000] ^= 1
    (tmp_path / "digits.pt").write_bytes(data)
    for name in ("digits.pt", "digits.json"):
        with pytest.raises(HarnessError) as error:
            load("digits")
        assert error.value.details["where"] == str(tmp_path / name)
        (tmp_path / "digits.json").write_text("{")
    (tmp_path / "digits.json").unlink()
    with pytest.raises(HarnessError):
        load("digits")


def test_a_data_set_without_classifier():
    with pytest.raises(UnknownName):
        load("cifar10")
