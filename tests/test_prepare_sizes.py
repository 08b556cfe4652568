"""Archives that claim or hold more than their format has: named before memory is taken, at the size that the limits have in use."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from archives import imagenet_tree, jpeg, picture
from PIL import Image

from harness.data import fashion
from harness.data.catalogue import info
from harness.data.prepare import cifar, prepare, source
from harness.data.prepare.batch_pickle import load as load_pickle
from harness.errors import DamagedFile, HarnessError


def dataset_zip(path, members: dict[str, bytes], labels: list) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr("dataset.json", json.dumps({"labels": labels}))


def test_an_image_of_a_zip_that_would_fill_the_memory_is_named(tmp_path):
    good, bomb = jpeg(picture(32, 32, 0), "PNG"), bytes(source.MOST_BYTES + 1)
    dataset_zip(tmp_path / "set.zip", {"a.png": good, "b.png": bomb}, [["a.png", 1], ["b.png", 2]])
    assert (tmp_path / "set.zip").stat().st_size < source.MOST_BYTES / 100
    tracemalloc.start()
    with pytest.raises(DamagedFile) as error:
        prepare("cifar10", tmp_path / "set.zip", tmp_path / "data", official=False, progress=lambda *_: None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "b.png" in error.value.details["where"] and peak < source.MOST_BYTES / 4
    folder = prepare("cifar10", tmp_path / "set.zip", tmp_path / "data", official=False, skip_damaged=1, progress=lambda *_: None)
    assert json.loads((folder / "manifest.json").read_text())["skipped"] == ["b.png"]


def test_an_image_file_that_would_fill_the_memory_is_named(tmp_path):
    tree = imagenet_tree(tmp_path / "tree", classes=2, each=2)
    large = next((tree / "train").glob("*/*")).with_name("large.png")
    with large.open("wb") as file:
        file.truncate(50 << 30)  # takes no space
    with pytest.raises(DamagedFile) as error:
        prepare("imagenet32", tree, tmp_path / "data", official=False, progress=lambda *_: None)
    assert "large.png" in error.value.details["where"] and "too large" in error.value.details["found"]


@pytest.mark.parametrize("name", ["imagenet32", "imagenet64"])
def test_a_strip_that_a_recipe_would_enlarge_is_refused(tmp_path, name):
    tree = imagenet_tree(tmp_path / "tree", classes=2, each=2)
    strip = next((tree / "train").glob("*/*")).with_name("strip.png")
    Image.fromarray(np.zeros((1, 2000, 3), np.uint8)).save(strip)
    with pytest.raises(HarnessError) as error:
        prepare(name, tree, tmp_path / "data", official=False, progress=lambda *_: None)
    assert str(strip) == str(error.value.details["where"]) and error.value.details["found"] == "2000x1"


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("first", [True, False])
def test_a_tar_header_that_would_fill_the_memory_is_refused(tmp_path, kind, first):
    head = tarfile.TarInfo("x")
    head.type, head.size = kind, 8 << 20
    with gzip.open(tmp_path / "cifar.tar.gz", "wb", 1) as file:
        if not first:
            file.write(tarfile.TarInfo("cifar-10-batches-py/readme.html").tobuf())
        file.write(head.tobuf(tarfile.GNU_FORMAT) + bytes(head.size) + tarfile.TarInfo("data_batch_1").tobuf() + bytes(1024))
    tracemalloc.start()
    with pytest.raises(DamagedFile) as error:
        cifar.read(tmp_path / "cifar.tar.gz", info("cifar10"), None, official=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "cifar.tar.gz" in str(error.value) and peak < head.size / 4


def test_a_pickle_that_claims_many_objects_takes_no_memory():
    tracemalloc.start()
    assert load_pickle(io.BytesIO(b"\x80\x02}r" + struct.pack("<I", 1 << 24) + b"."), "a batch") == {}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20


def npy(descr: str, shape: str, content: bytes) -> bytes:
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head) + 1) + head + b"\n" + content


ROWS, LABELS = npy("'|u1'", "(2, 3072)", bytes(6144)), npy("'<i8'", "(2,)", struct.pack("<2q", 1, 2))


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        (npy("'|u1'", "(" * 3000, bytes(6144)), LABELS),
        (ROWS, npy("'<i8'", "(" * 3000, bytes(16))),
        (ROWS, npy("[('a',", "(2,)", bytes(16))),
        (ROWS, npy("'<f8'", "(2,)", struct.pack("<2d", 1.5, float("nan")))),
        (ROWS, npy("'|b1'", "(2,)", b"\1\0")),
    ],
)
def test_arrays_with_other_headers_or_labels_are_damaged(tmp_path, rows, labels):
    for name in (*(f"train_data_batch_{k}" for k in range(1, 11)), "val_data"):
        with zipfile.ZipFile(tmp_path / f"{name}.npz", "w") as archive:
            archive.writestr("data.npy", rows if name == "train_data_batch_1" else ROWS)
            archive.writestr("labels.npy", labels if name == "train_data_batch_1" else LABELS)
    with pytest.raises(DamagedFile) as error:
        prepare("imagenet32", tmp_path, tmp_path / "data", official=False, progress=lambda *_: None)
    assert "train_data_batch_1.npz" in str(error.value.details["where"])


def test_an_image_with_two_labels_is_refused(tmp_path):
    dataset_zip(tmp_path / "set.zip", {"a.png": jpeg(picture(32, 32, 0), "PNG")}, [["a.png", 1], ["a.png", 2]])
    with pytest.raises(DamagedFile, match="twice"):
        prepare("cifar10", tmp_path / "set.zip", tmp_path / "data", official=False, progress=lambda *_: None)


def test_an_idx_file_is_unpacked_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion, "MOST_BYTES", 1 << 20)
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    with gzip.open(path, "wb") as file:
        file.write(bytes(8 << 20))
    with pytest.raises(DamagedFile, match="checksum") as error:
        fashion._read_idx(path, (10_000,), "download it")
    assert error.value.details["found"].startswith(f"{1 << 20} bytes")
