"""Archives in their real formats, made small by the tests, to checked arrays: right pixels, and never a half-written set."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import textwrap
import time
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from harness import catalogue, datasets
from harness.errors import HarnessError
from harness.prepare import cifar, downsampled, images, prepare, writer
from harness.prepare.images import decode, resizer
from harness.prepare.safe_pickle import load as load_pickle

ROOT = Path(__file__).resolve().parent.parent


def silent(split, done, total):
    pass


def run(name, source, root, **options):
    return prepare(name, source, root, progress=silent, **{"official": False, **options})


def stored(root, name, split):
    labels = root / name / f"{split}_labels.npy"
    return np.load(root / name / f"{split}.npy"), np.load(labels) if labels.exists() else None


# -- makers


def python2_batch(data: np.ndarray, labels: list[int]) -> bytes:
    """The very opcodes of CIFAR-10's files: cPickle of Python 2, protocol 2, byte strings throughout."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    raw = data.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R(K\x01"
    array += number(data.shape[0]) + number(data.shape[1]) + b"\x86cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03"
    array += text(b"|") + b"NNN" + number(-1) + number(-1) + b"K\x00tb\x89T" + struct.pack("<I", len(raw)) + raw + b"tb"
    listed = b"](" + b"".join(number(label) for label in labels) + b"e"
    label = text(b"batch_label") + text(b"testing batch 1 of 1")
    return b"\x80\x02}(" + label + text(b"labels") + listed + text(b"data") + array + b"u."


def cifar_rows(rows=20, seed=0):
    draws = np.random.default_rng(seed)
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    return {name: (draws.integers(0, 256, (rows, 3072), np.uint8), draws.integers(0, 10, rows).tolist()) for name in names}


def cifar_archive(path: Path, batches, mode="w:gz", dump=python2_batch) -> Path:
    with tarfile.open(path, mode) as archive:
        for name in sorted(batches, reverse=True):  # the official one is in no order either
            raw = dump(*batches[name])
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return path


def jpeg(array: np.ndarray, kind="JPEG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind, quality=95) if kind != "PNG" else Image.fromarray(array).save(out, kind)
    return out.getvalue()


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """A smooth random picture, so that JPEG hardly changes it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def imagenet_tree(base: Path, classes=3, each=4) -> Path:
    for split, count in (("train", each), ("val", 1)):
        for number in range(classes):
            folder = base / split / f"n{number:08d}"
            folder.mkdir(parents=True)
            for image in range(count):
                pixels = picture(50 + 7 * image, 90 - 9 * number, 100 * number + image)
                (folder / f"{folder.name}_{image}.JPEG").write_bytes(jpeg(pixels))
            (folder / "._hidden.JPEG").write_bytes(b"junk of a file manager")
    return base


def celeba_folder(base: Path, count=12, zipped=False) -> Path:
    base.mkdir()
    names = [f"{number + 1:06d}.jpg" for number in range(count)]
    files = {name: jpeg(picture(218, 178, number)) for number, name in enumerate(names)}
    (base / "list_eval_partition.txt").write_text("".join(f"{name} {min(2, 6 * i // count // 2)}\n" for i, name in enumerate(names)))
    if zipped:
        with zipfile.ZipFile(base / "img_align_celeba.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(f"img_align_celeba/{name}", data)
    else:
        (base / "img_align_celeba").mkdir()
        for name, data in files.items():
            (base / "img_align_celeba" / name).write_bytes(data)
    return base


def church_lmdb(base: Path, count=9) -> Path:
    for split, rows in (("train", count), ("val", 2)):
        folder = base / f"church_outdoor_{split}_lmdb"
        folder.mkdir(parents=True)
        with lmdb.open(str(folder), map_size=1 << 24) as database, database.begin(write=True) as view:
            for number in range(rows):
                kind = "WEBP" if number % 2 else "JPEG"
                view.put(f"{number * 7919 % 1000:040x}".encode(), jpeg(picture(256, 341, number), kind))
    return base


def box_half(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) to (H/2, W/2, 3): means of two columns, then of two rows, rounded each time."""
    rows = np.floor(pixels.astype(float).reshape(len(pixels), -1, 2, 3).mean(2) + 0.5)
    return np.floor(rows.reshape(len(pixels) // 2, 2, -1, 3).mean(1) + 0.5)


# -- the formats


@pytest.mark.parametrize("form", ["tar.gz", "tar", "folder", "python3", "protocol2", "protocol5"])
def test_cifar_rows_and_labels(tmp_path, form):
    batches = cifar_rows()
    dumps = {"python3": 4, "protocol2": 2, "protocol5": 5}

    def dump(data, labels):
        return pickle.dumps({b"data": data, b"labels": labels}, protocol=dumps[form])

    made = dump if form in dumps else python2_batch
    source = cifar_archive(tmp_path / "cifar-10-python.tar.gz", batches, "w" if form == "tar" else "w:gz", made)
    if form == "folder":
        with tarfile.open(source) as archive:
            archive.extractall(tmp_path, filter="data")
        source = tmp_path / "cifar-10-batches-py"
    run("cifar10", source, tmp_path / "data")
    expected = np.concatenate([batches[f"data_batch_{k}"][0] for k in range(1, 6)]).reshape(-1, 3, 32, 32)
    images, labels = stored(tmp_path / "data", "cifar10", "train")
    assert np.array_equal(images, expected) and labels.tolist() == [v for k in range(1, 6) for v in batches[f"data_batch_{k}"][1]]
    held = datasets.load("cifar10", "heldout", root=tmp_path / "data")
    assert held.images.numpy().tobytes() == batches["test_batch"][0].tobytes() and held.labels.tolist() == batches["test_batch"][1]


def test_python2_maker_agrees_with_the_standard_unpickler():
    data, labels = cifar_rows()["test_batch"]
    found = pickle.loads(python2_batch(data, labels), encoding="bytes")
    assert np.array_equal(found[b"data"], data) and found[b"labels"] == labels


def test_published_sums_are_those_that_torchvision_knows():
    from torchvision.datasets import CIFAR10

    assert dict((*CIFAR10.train_list, *CIFAR10.test_list)) == cifar.PUBLISHED_MD5


def test_official_cifar_needs_the_published_sums(tmp_path, monkeypatch):
    source = cifar_archive(tmp_path / "cifar.tar.gz", cifar_rows())
    with pytest.raises(HarnessError, match="not the published batch") as error:
        prepare("cifar10", source, tmp_path / "data", progress=silent)
    assert "data_batch_1" in error.value.details["where"] and "c99cafc152244af753f735de768cd75f" in error.value.details["expected"]
    monkeypatch.setattr(cifar, "PUBLISHED_MD5", {})
    with pytest.raises(HarnessError, match="wrong number of train images") as error:
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
    images, found = stored(tmp_path / "data", name, "train")
    assert np.array_equal(images.reshape(70, -1), np.concatenate(rows[:10])) and np.array_equal(found, np.concatenate(labels[:10]) - 1)
    images, found = stored(tmp_path / "data", name, "heldout")
    assert np.array_equal(images.reshape(7, -1), rows[10]) and np.array_equal(found, labels[10] - 1)
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
    with pytest.raises(HarnessError, match="damaged") as error:
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
    assert len(datasets.load("celeba64", "all", root=tmp_path / "data")) == 12


def test_church_lmdb_in_key_order(tmp_path):
    base = church_lmdb(tmp_path / "lsun")
    run("church64", base, tmp_path / "data")
    train, _ = stored(tmp_path / "data", "church64", "train")
    assert train.shape == (9, 3, 64, 64) and stored(tmp_path / "data", "church64", "heldout")[0].shape == (2, 3, 64, 64)
    order = sorted(range(9), key=lambda number: number * 7919 % 1000)
    for row, number in enumerate(order):  # means survive cropping only roughly, but tell the pictures apart
        middle = picture(256, 341, number)[:, 42:298].mean((0, 1))
        assert np.abs(train[row].mean((1, 2)) - middle).max() < 2.5
    run("church64", base / "church_outdoor_train_lmdb", tmp_path / "alone")
    assert np.array_equal(stored(tmp_path / "alone", "church64", "train")[0], train)
    with pytest.raises(HarnessError, match="without heldout rows"):
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
    found = np.asarray(resizer("adm", 8)(Image.fromarray(pixels)))  # 64 x 32 to 16 x 8
    assert np.array_equal(found, box_half(box_half(pixels))[:, 4:12])


@pytest.mark.parametrize("recipe", ["bilinear", "shorter-nearest", "crop-box", "", "square-box-x"])
def test_unknown_recipe(recipe):
    with pytest.raises(HarnessError, match="unknown recipe"):
        resizer(recipe, 32)


def test_grey_palette_and_alpha_images_become_rgb():
    for mode in ("L", "P", "RGBA", "CMYK"):
        image, out = Image.new(mode, (8, 8)), io.BytesIO()
        image.save(out, "JPEG" if mode == "CMYK" else "PNG")
        assert decode(out.getvalue(), mode, resizer("exact", 8)).shape == (3, 8, 8)


# -- bad input


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/harness-evil-was-here",)


class EvilState:
    def __reduce__(self):
        return np.dtype, ("O",)


@pytest.mark.parametrize("bad", [Evil(), EvilState(), np.array([None, 1]), np.ones(2, "c8"), print, Path("x")])
def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path, bad):
    witness = Path("/tmp/harness-evil-was-here")
    witness.unlink(missing_ok=True)
    batches = cifar_rows(rows=2)

    def dump(data, labels):
        return pickle.dumps({"data": data, "labels": labels, "x": bad})

    source = cifar_archive(tmp_path / "c.tar.gz", batches, dump=dump)
    with pytest.raises(HarnessError, match="damaged") as error:
        run("cifar10", source, tmp_path / "data")
    assert "data_batch_1" in error.value.details["where"] and not witness.exists()
    assert not (tmp_path / "data" / "cifar10").exists()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damaged_pickle_gives_one_clear_error_or_a_dictionary(data):
    raw = bytearray(python2_batch(np.zeros((2, 12), np.uint8), [1, 2]))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(raw)))
    try:
        found = load_pickle(io.BytesIO(bytes(raw[:cut])), "here")
    except HarnessError as error:
        assert error.details["where"] == "here"
    else:
        assert all(isinstance(key, str) for key in found)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.999])
def test_a_truncated_archive(tmp_path, share):
    source = cifar_archive(tmp_path / "c.tar.gz", cifar_rows())
    raw = source.read_bytes()
    source.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(HarnessError) as error:
        run("cifar10", source, tmp_path / "data")
    assert "c.tar.gz" in error.value.details["where"] and not (tmp_path / "data" / "cifar10").exists()


@pytest.mark.parametrize("name", catalogue.REGISTRY)
def test_a_source_that_holds_something_else(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "readme.txt").write_text("nothing")
    with pytest.raises(HarnessError):
        run(name, tmp_path / "in", tmp_path / "data")
    with pytest.raises(HarnessError):
        run(name, tmp_path / "in" / "readme.txt", tmp_path / "data")
    with pytest.raises(HarnessError):
        run(name, tmp_path / "absent", tmp_path / "data")
    assert not list((tmp_path / "data").glob("*")) if (tmp_path / "data").exists() else True


def test_a_damaged_image_is_named(tmp_path):
    base = imagenet_tree(tmp_path / "in")
    bad = base / "train" / "n00000001" / "n00000001_2.JPEG"
    bad.write_bytes(bad.read_bytes()[:300])
    with pytest.raises(HarnessError, match="damaged") as error:
        run("imagenet32", base, tmp_path / "data")
    assert error.value.details["where"] == str(bad)
    with pytest.raises(HarnessError, match="is not prepared"):
        datasets.load("imagenet32", root=tmp_path / "data")


def test_damaged_members_of_a_zip_and_an_lmdb(tmp_path):
    base = celeba_folder(tmp_path / "celeba", zipped=True)
    raw = bytearray((base / "img_align_celeba.zip").read_bytes())
    raw[len(raw) // 2] ^= 255
    (base / "img_align_celeba.zip").write_bytes(raw)
    with pytest.raises(HarnessError) as error:
        run("celeba64", base, tmp_path / "data")
    assert "img_align_celeba.zip/0000" in error.value.details["where"]
    church = church_lmdb(tmp_path / "lsun") / "church_outdoor_train_lmdb"
    whole = (church / "data.mdb").read_bytes()
    for size in (len(whole) // 2, 5000, 100, 0):  # reading beyond the end of the map would kill the process
        (church / "data.mdb").write_bytes(whole[:size])
        with pytest.raises(HarnessError) as error:
            run("church64", church, tmp_path / "data")
        assert "data.mdb" in error.value.details["where"]


@pytest.mark.parametrize("size", [(217, 178), (218, 178, 1), (64, 64)])
def test_wrong_image_size(tmp_path, size):
    base = celeba_folder(tmp_path / "celeba")
    pixels = picture(*size[:2], 0)
    (base / "img_align_celeba" / "000003.jpg").write_bytes(jpeg(pixels) if len(size) == 2 else b"")
    with pytest.raises(HarnessError) as error:
        run("celeba64", base, tmp_path / "data")
    assert error.value.details["where"].endswith("000003.jpg")
    if len(size) == 2:
        assert error.value.details["found"] == f"{size[1]}x{size[0]}" and error.value.details["expected"] == "178x218"


def test_celeba_with_a_missing_image_or_a_bad_list(tmp_path):
    base = celeba_folder(tmp_path / "celeba")
    (base / "img_align_celeba" / "000007.jpg").unlink()
    with pytest.raises(HarnessError, match="incomplete") as error:
        run("celeba64", base, tmp_path / "data")
    assert "000007.jpg" in error.value.details["found"]
    (base / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg three\n")
    with pytest.raises(HarnessError) as error:
        run("celeba64", base, tmp_path / "data")
    assert error.value.details["where"].endswith("list_eval_partition.txt:2")


def test_official_counts_are_checked_before_the_work(tmp_path):
    seen = []
    with pytest.raises(HarnessError, match="wrong number of train images") as error:
        prepare("celeba64", celeba_folder(tmp_path / "celeba"), tmp_path / "data", progress=lambda *now: seen.append(now))
    assert error.value.details["expected"] == "162770" and not seen


def test_a_disk_too_small_is_told_before_the_work(tmp_path, monkeypatch):
    seen = []
    source = cifar_archive(tmp_path / "c.tar.gz", cifar_rows())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(HarnessError, match="disk is too small"):
        prepare("cifar10", source, tmp_path / "data", official=False, progress=lambda *now: seen.append(now))
    assert not seen and not (tmp_path / "data" / "cifar10.partial").exists()


def python(code: str, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, **options)


def test_a_disk_that_fills_up_meanwhile(tmp_path):
    """A real failing write: the file-size limit of a child process stands in for the full disk."""
    base = imagenet_tree(tmp_path / "in")
    code = f"""
        import resource
        from harness.errors import HarnessError
        from harness.prepare import images, prepare
        images.ROWS = 2
        resource.setrlimit(resource.RLIMIT_FSIZE, (16000, 16000))
        try:
            prepare("imagenet32", {str(base)!r}, {str(tmp_path / "data")!r}, official=False)
        except HarnessError as error:
            print(error.what)
    """
    assert "cannot write" in python(code).stdout
    assert not (tmp_path / "data" / "imagenet32").exists()
    folder = run("imagenet32", base, tmp_path / "data")
    fresh = run("imagenet32", base, tmp_path / "fresh")
    assert (folder / "train.npy").read_bytes() == (fresh / "train.npy").read_bytes()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_an_unwritable_root(tmp_path):
    (tmp_path / "data").mkdir(mode=0o500)
    with pytest.raises(HarnessError, match="cannot write"):
        run("cifar10", cifar_archive(tmp_path / "c.tar.gz", cifar_rows()), tmp_path / "data")


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(HarnessError, match="cannot write"):
        run("cifar10", cifar_archive(tmp_path / "c.tar.gz", cifar_rows()), tmp_path / "data")


# -- interrupted and run again


def _prepare_and_die(at, told, name, source, root):
    """In a child process: counts moments (before and after each write of the journal, sync, rename, at each progress) and dies at one."""
    images.ROWS = downsampled.ROWS = 3

    def moment(*_args):
        told.value += 1
        if told.value == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function):
        def wrapped(*args, **options):
            moment()
            found = function(*args, **options)
            moment()
            return found

        return wrapped

    writer.write_json, writer._write, Path.replace = counted(writer.write_json), counted(writer._write), counted(Path.replace)
    prepare(name, source, root, official=False, progress=moment)


def killed_at(at, name, source, root):
    """Exit code and number of moments of a forked preparation that kills itself with SIGKILL at moment `at` (0: never)."""
    fork = multiprocessing.get_context("fork")
    told = fork.Value("i", 0)
    child = fork.Process(target=_prepare_and_die, args=(at, told, name, source, root))
    child.start()
    child.join(60)
    return child.exitcode, told.value


def contents(folder: Path):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("name", ["imagenet32", "cifar10"])
def test_killed_at_any_moment_and_run_again(tmp_path, name):
    """kill -9 before and after writes, journals and renames; nothing half-written is ever valid, and the end is the same."""
    source = imagenet_tree(tmp_path / "in") if name == "imagenet32" else cifar_archive(tmp_path / "c.tar.gz", cifar_rows(rows=3))
    expected = contents(run(name, source, tmp_path / "whole"))
    done, total = killed_at(0, name, source, tmp_path / "count")
    assert done == 0 and total > 60 and contents(tmp_path / "count" / name) == expected
    for at in sorted({*range(1, total, 7), *range(total - 16, total + 1)}):
        root = tmp_path / f"killed-{at}"
        assert killed_at(at, name, source, root)[0] == -signal.SIGKILL
        if (root / name / "manifest.json").exists():
            assert datasets.verify(name, root)
        else:
            with pytest.raises(HarnessError, match="is not prepared"):
                datasets.load(name, root=root)
        assert contents(run(name, source, root)) == expected
        assert not (root / f"{name}.partial").exists()


def test_killed_again_and_again_it_goes_on_where_it_stopped(tmp_path):
    source = imagenet_tree(tmp_path / "in", classes=4, each=9)
    expected = contents(run("imagenet32", source, tmp_path / "whole"))
    rows, root = [], tmp_path / "data"
    for _ in range(20):
        if killed_at(40, "imagenet32", source, root)[0] == 0:
            break
        journal = root / "imagenet32.partial" / "journal.json"
        rows.append(sum(json.loads(journal.read_text())["rows"].values()))
    assert contents(root / "imagenet32") == expected
    assert len(rows) >= 3 and all(before < after for before, after in pairwise(rows[:3]))


def test_killed_from_outside_at_any_time(tmp_path):
    source = imagenet_tree(tmp_path / "in", classes=10, each=10)
    expected = contents(run("imagenet32", source, tmp_path / "whole"))
    code = f"from harness.prepare import prepare; prepare('imagenet32', {str(source)!r}, {str(tmp_path / 'data')!r}, official=False)"
    for extra in (0.0, 0.01, 0.03):
        process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while process.poll() is None and not list((tmp_path / "data").glob("*.partial/train.npy")) and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(extra)
        process.kill()
        process.wait()
    assert contents(run("imagenet32", source, tmp_path / "data")) == expected


def test_a_beginning_of_another_source_or_recipe_is_not_continued(tmp_path):
    one, two = imagenet_tree(tmp_path / "one"), imagenet_tree(tmp_path / "two", classes=2)
    killed_at(14, "imagenet32", one, tmp_path / "data")
    assert (tmp_path / "data" / "imagenet32.partial" / "journal.json").exists()
    assert contents(run("imagenet32", two, tmp_path / "data")) == contents(run("imagenet32", two, tmp_path / "fresh"))


def test_bytes_behind_the_journal_are_written_again(tmp_path):
    """As after a power cut: the arrays hold more than the journal vouches for, or less."""
    source = imagenet_tree(tmp_path / "in")
    expected = contents(run("imagenet32", source, tmp_path / "whole"))
    spoils = (lambda file: file.write_bytes(file.read_bytes() + b"\xff" * 5000), lambda file: os.truncate(file, 4000))
    for number, spoil in enumerate(spoils):
        root = tmp_path / str(number)
        killed_at(20, "imagenet32", source, root)
        spoil(root / "imagenet32.partial" / "train.npy")
        assert contents(run("imagenet32", source, root)) == expected


def test_a_prepared_set_is_kept_and_a_damaged_one_replaced(tmp_path):
    source, root = imagenet_tree(tmp_path / "in"), tmp_path / "data"
    folder = run("imagenet32", source, root)
    before, inode = contents(folder), (folder / "train.npy").stat().st_ino
    run("imagenet32", source, root)
    assert (folder / "train.npy").stat().st_ino == inode and not (root / "imagenet32.partial").exists()
    with pytest.raises(HarnessError, match="prepared from something else"):
        run("imagenet32", source, root, recipe="adm")
    assert contents(folder) == before
    raw = bytearray(before["train.npy"])
    raw[9000] ^= 1
    (folder / "train.npy").write_bytes(raw)
    with pytest.raises(HarnessError, match="checksum mismatch") as error:
        datasets.load("imagenet32", root=root)
    assert error.value.details["nearest"].startswith("harness prepare imagenet32 --from")
    run("imagenet32", source, root)
    assert contents(folder) == before


def test_two_preparations_at_once(tmp_path):
    source = imagenet_tree(tmp_path / "in")
    with writer.workspace(tmp_path / "data" / "imagenet32"), pytest.raises(HarnessError, match="another process"):
        run("imagenet32", source, tmp_path / "data")
    assert run("imagenet32", source, tmp_path / "data").is_dir()


def test_the_archive_may_lie_in_the_set_s_own_folder(tmp_path):
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    source = cifar_archive(tmp_path / "data" / "cifar10" / "cifar-10-python.tar.gz", cifar_rows())
    run("cifar10", source, tmp_path / "data")
    assert source.exists() and len(datasets.load("cifar10", "all", root=tmp_path / "data")) == 120


def test_progress_is_told(tmp_path, capsys):
    seen = []
    source = cifar_archive(tmp_path / "c.tar.gz", cifar_rows())
    prepare("cifar10", source, tmp_path / "one", official=False, progress=lambda *now: seen.append(now))
    assert next(now for now in seen if now[0] == "train")[1] == 0 and ("train", 100) in [now[:2] for now in seen]
    prepare("cifar10", source, tmp_path / "two", official=False)
    assert "cifar10 train: 100 of 100" in capsys.readouterr().err
