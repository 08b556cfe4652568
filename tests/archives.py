"""Small archives in their real formats, for the tests of preparing."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from pathlib import Path

import lmdb
import numpy as np
from PIL import Image

from harness.data.prepare import prepare


def silent(split, done, total):
    pass


def run(name, source, root, **options):
    return prepare(name, source, root, progress=silent, **{"official": False, **options})


def stored(root, name, split):
    labels = root / name / f"{split}_labels.npy"
    return np.load(root / name / f"{split}.npy"), np.load(labels) if labels.exists() else None


def python2_batch(data: np.ndarray, labels: list[int]) -> bytes:
    """The same opcodes as CIFAR-10's files: cPickle of Python 2, protocol 2, byte strings throughout."""

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
        for name in sorted(batches, reverse=True):  # the official archive is not sorted either
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
                pixels = picture(50 + 7 * image, 90 - 9 * number, 100 * number + image + 50 * (split == "val"))
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


def church_lmdb(base: Path, count=9, held_out=2) -> Path:
    for split, rows in (("train", count), ("val", held_out)):
        folder = base / f"church_outdoor_{split}_lmdb"
        folder.mkdir(parents=True)
        with lmdb.open(str(folder), map_size=1 << 24) as database, database.begin(write=True) as view:
            for number in range(rows):
                kind = "WEBP" if number % 2 else "JPEG"
                view.put(f"{number * 7919 % 1000:040x}".encode(), jpeg(picture(256, 341, number + 500 * (split == "val")), kind))
    return base


def box_half(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) to (H/2, W/2, 3): means of two columns, then of two rows, rounded each time."""
    rows = np.floor(pixels.astype(float).reshape(len(pixels), -1, 2, 3).mean(2) + 0.5)
    return np.floor(rows.reshape(len(pixels) // 2, 2, -1, 3).mean(1) + 0.5)
