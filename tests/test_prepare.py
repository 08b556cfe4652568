"""Small archives in their real formats are converted to arrays with the right pixels and labels."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from archives import (
    box_half,
    celeba_folder,
    church_lmdb,
    cifar_archive,
    cifar_rows,
    imagenet_tree,
    jpeg,
    picture,
    python2_batch,
    run,
    silent,
    stored,
)
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from harness.data import catalogue, datasets
from harness.data.prepare import cifar, prepare
from harness.data.prepare.images import decode, resizer
from harness.errors import DamagedFile, HarnessError, MissingFile

# -- the formats


@pytest.mark.parametrize("form", ["tar.gz", "tar", "folder", "python3", "protocol2", "protocol5"])
def test_cifar_rows_and_labels(tmp_path, form):
    batches = cifar_rows()
    dumps = {"python3": 4, "protocol2": 2, "protocol5": 5}

    def dump(data, labels):
        return pickle.dumps({b"data": data, b"labels": labels}, protocol=dumps[form])

    write_batch = dump if form in dumps else python2_batch
    source = cifar_archive(tmp_path / "cifar-10-python.tar.gz", batches, "w" if form == "tar" else "w:gz", write_batch)
    if form == "folder":
        with tarfile.open(source) as archive:
            archive.extractall(tmp_path, filter="data")
        source = tmp_path / "cifar-10-batches-py"
    run("cifar10", source, tmp_path / "data")
    expected = np.concatenate([batches[f"data_batch_{k}"][0] for k in range(1, 6)]).reshape(-1, 3, 32, 32)
    images, labels = stored(tmp_path / "data", "cifar10", "train")
    assert np.array_equal(images, expected) and labels.tolist() == [v for k in range(1, 6) for v in batches[f"data_batch_{k}"][1]]
    held = datasets.load("cifar10", "heldout", root=tmp_path / "data")
    assert held.rows.numpy().tobytes() == batches["test_batch"][0].tobytes() and held.labels.tolist() == batches["test_batch"][1]


def test_the_python2_writer_agrees_with_the_standard_unpickler():
    data, labels = cifar_rows()["test_batch"]
    batch = pickle.loads(python2_batch(data, labels), encoding="bytes")
    assert np.array_equal(batch[b"data"], data) and batch[b"labels"] == labels


def test_published_sums_are_those_that_torchvision_knows():
    from torchvision.datasets import CIFAR10

    assert dict((*CIFAR10.train_list, *CIFAR10.test_list)) == cifar.PUBLISHED_MD5


def test_official_cifar_needs_the_published_sums(tmp_path, monkeypatch):
    source = cifar_archive(tmp_path / "cifar.tar.gz", cifar_rows())
    with pytest.raises(HarnessError, match="MD5") as error:
        prepare("cifar10", source, tmp_path / "data", progress=silent)
    assert "data_batch_1" in error.value.details["where"] and "c99cafc152244af753f735de768cd75f" in error.value.details["expected"]
    monkeypatch.setattr(cifar, "PUBLISHED_MD5", {})
    with pytest.raises(HarnessError, match="train") as error:
        prepare("cifar10", source, tmp_path / "data", progress=silent)
    assert error.value.details["found"] == "100" and error.value.details["expected"] == "50000"
    monkeypatch.setitem(catalogue.REGISTRY, "cifar10", replace(catalogue.REGISTRY["cifar10"], train=100, heldout=20))
    folder = prepare("cifar10", source, tmp_path / "data", progress=silent)
    assert json.loads((folder / "manifest.json").read_text())["official"] is True


@pytest.mark.parametrize("form", ["npz", "pickle"])
@pytest.mark.parametrize("name, size", [("imagenet32", 32), ("imagenet64", 64)])
def test_downsampled_batches(tmp_path, form, name, size):
    draws = np.random.default_rng(1)
    rows, labels = [], []
    for number in range(1, 12):  # so that 10 and 11 come after 9, not after 1
        rows.append(draws.integers(0, 256, (7, 3 * size * size), np.uint8))
        labels.append(draws.integers(1, 1001, 7))
        batch = {"data": rows[-1], "labels": labels[-1] if form == "npz" else labels[-1].tolist(), "mean": rows[-1].mean(0)}
        file = tmp_path / "in" / "part" / (f"train_data_batch_{number}" if number < 11 else "val_data")
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file.with_suffix(".npz"), **batch) if form == "npz" else file.write_bytes(pickle.dumps(batch, protocol=3))
    folder = run(name, tmp_path / "in", tmp_path / "data")
    images, classes = stored(tmp_path / "data", name, "train")
    assert np.array_equal(images.reshape(70, -1), np.concatenate(rows[:10])) and np.array_equal(classes, np.concatenate(labels[:10]) - 1)
    images, classes = stored(tmp_path / "data", name, "heldout")
    assert np.array_equal(images.reshape(7, -1), rows[10]) and np.array_equal(classes, labels[10] - 1)
    assert "ILSVRC2012_ID" in json.loads((folder / "manifest.json").read_text())["label_order"]


def test_downsampled_batches_of_the_wrong_size_or_with_one_missing(tmp_path):
    for number in (1, 3):
        np.savez(tmp_path / f"train_data_batch_{number}.npz", data=np.zeros((3, 12288), np.uint8), labels=np.ones(3, np.int64))
    with pytest.raises(HarnessError) as error:
        run("imagenet64", tmp_path, tmp_path / "data")
    assert error.value.details["found"] == "no train_data_batch_2"
    (tmp_path / "train_data_batch_3.npz").rename(tmp_path / "train_data_batch_2.npz")
    with pytest.raises(HarnessError, match="wrong image size") as error:
        run("imagenet32", tmp_path, tmp_path / "data")
    assert "(3, 12288)" in error.value.details["found"] and "3072" in error.value.details["expected"]


def test_a_flipped_bit_in_an_npz_is_found(tmp_path):
    np.savez(tmp_path / "train_data_batch_1.npz", data=np.zeros((40, 3072), np.uint8), labels=np.ones(40, np.int64))
    raw = bytearray((tmp_path / "train_data_batch_1.npz").read_bytes())
    raw[60_000] ^= 4
    (tmp_path / "train_data_batch_1.npz").write_bytes(raw)
    with pytest.raises(DamagedFile) as error:
        run("imagenet32", tmp_path, tmp_path / "data")
    assert "train_data_batch_1.npz" in error.value.details["where"] and not (tmp_path / "data" / "imagenet32").exists()


def test_imagenet_tree_by_the_authors_recipe(tmp_path):
    """Independent oracle: torchvision's Resize and CenterCrop on the same decoded images."""
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    base = imagenet_tree(tmp_path / "ILSVRC2012")
    folder = run("imagenet32", base, tmp_path / "data")
    images, labels = stored(tmp_path / "data", "imagenet32", "train")
    oracle = Compose([Resize(32, InterpolationMode.BILINEAR), CenterCrop(32)])
    files = sorted(file for file in (base / "train").rglob("n*.JPEG"))
    expected = np.stack([np.asarray(oracle(Image.open(file).convert("RGB"))).transpose(2, 0, 1) for file in files])
    assert np.array_equal(images, expected) and labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert stored(tmp_path / "data", "imagenet32", "heldout")[1].tolist() == [0, 1, 2]
    assert json.loads((folder / "manifest.json").read_text())["recipe"] == "shorter-bilinear"
    other = run("imagenet32", base, tmp_path / "other", recipe="squash-box")
    assert json.loads((other / "manifest.json").read_text())["recipe"] == "squash-box"
    assert not np.array_equal(np.load(other / "train.npy"), images)


@pytest.mark.parametrize("zipped", [False, True])
def test_celeba_partition_and_crop(tmp_path, zipped):
    from torchvision.transforms import CenterCrop, Compose, Resize

    base = celeba_folder(tmp_path / "celeba", zipped=zipped)
    run("celeba64", base / "img_align_celeba.zip" if zipped else base, tmp_path / "data")
    train, labels = stored(tmp_path / "data", "celeba64", "train")
    held, _ = stored(tmp_path / "data", "celeba64", "heldout")
    assert len(train) == 4 and len(held) == 8 and labels is None
    oracle = Compose([CenterCrop(140), Resize((64, 64))])
    pictures = [Image.open(io.BytesIO(jpeg(picture(218, 178, number)))).convert("RGB") for number in range(12)]
    expected = np.stack([np.asarray(oracle(image)).transpose(2, 0, 1) for image in pictures])
    assert np.array_equal(np.concatenate([train, held]), expected)
    assert len(datasets.load("celeba64", root=tmp_path / "data")) == 4


def test_church_lmdb_in_key_order(tmp_path):
    base = church_lmdb(tmp_path / "lsun")
    run("church64", base, tmp_path / "data")
    train, _ = stored(tmp_path / "data", "church64", "train")
    assert train.shape == (9, 3, 64, 64) and stored(tmp_path / "data", "church64", "heldout")[0].shape == (2, 3, 64, 64)
    order = sorted(range(9), key=lambda number: number * 7919 % 1000)
    for row, number in enumerate(order):  # cropping changes the means a little; they still identify the pictures
        middle = picture(256, 341, number)[:, 42:298].mean((0, 1))
        assert np.abs(train[row].mean((1, 2)) - middle).max() < 2.5
    run("church64", base / "church_outdoor_train_lmdb", tmp_path / "alone")
    assert np.array_equal(stored(tmp_path / "alone", "church64", "train")[0], train)
    with pytest.raises(MissingFile, match="heldout"):
        datasets.load("church64", "heldout", root=tmp_path / "alone")


def test_ffhq_pngs(tmp_path):
    for number in range(6):
        folder = tmp_path / "thumbnails128x128" / f"{number // 3:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05d}.png").write_bytes(jpeg(np.random.default_rng(number).integers(0, 256, (128, 128, 3), np.uint8), "PNG"))
    run("ffhq64", tmp_path / "thumbnails128x128", tmp_path / "data", recipe="square-box")
    images, _ = stored(tmp_path / "data", "ffhq64", "train")
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (128, 128, 3), np.uint8)
        assert np.array_equal(images[number], box_half(pixels).transpose(2, 0, 1))
    lanczos = run("ffhq64", tmp_path / "thumbnails128x128", tmp_path / "lanczos")
    assert json.loads((lanczos / "manifest.json").read_text())["recipe"] == "square-lanczos"


# -- resizing


@given(st.integers(8, 90), st.integers(8, 90), st.sampled_from(["shorter", "square", "squash", "adm"]), st.integers(0, 255))
def test_every_recipe_gives_the_size_and_keeps_a_flat_image_flat(height, width, fit, level):
    recipe = fit if fit == "adm" else f"{fit}-bilinear"
    image = Image.fromarray(np.full((height, width, 3), level, np.uint8))
    assert (np.asarray(resizer(recipe, 8)(image)) == level).all() and resizer(recipe, 8)(image).size == (8, 8)


def test_adm_halves_by_box_then_takes_the_centre():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    resized = np.asarray(resizer("adm", 8)(Image.fromarray(pixels)))  # 64 x 32 to 16 x 8
    assert np.array_equal(resized, box_half(box_half(pixels))[:, 4:12])


@pytest.mark.parametrize("recipe", ["bilinear", "shorter-nearest", "crop-box", "", "square-box-x"])
def test_unknown_recipe(recipe):
    with pytest.raises(HarnessError, match="unknown recipe"):
        resizer(recipe, 32)


def test_grey_palette_and_alpha_images_become_rgb():
    for mode in ("L", "P", "RGBA", "CMYK"):
        image, out = Image.new(mode, (8, 8)), io.BytesIO()
        image.save(out, "JPEG" if mode == "CMYK" else "PNG")
        assert decode(out.getvalue(), mode, resizer("exact", 8)).shape == (3, 8, 8)
