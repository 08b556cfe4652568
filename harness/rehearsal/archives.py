"""Small archives in the official formats of the data sets: for a rehearsal, and for the tests of `harness prepare`.

Sizes, names, containers and encodings are those of the real archives; the pictures are smooth random ones.
"""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import lmdb
import numpy as np
from PIL import Image

CifarBatches = Mapping[str, tuple[np.ndarray, Sequence[int]]]
"""Batch name -> rows, uint8 (n, 3072), and their labels."""


def python2_batch(data: np.ndarray, labels: Sequence[int]) -> bytes:
    """The same opcodes as CIFAR-10's files: cPickle of Python 2, protocol 2, byte strings throughout. data: uint8 (n, 3072)."""

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


def cifar_rows(rows: int = 20, seed: int = 0, held_out: int | None = None) -> dict[str, tuple[np.ndarray, list[int]]]:
    """The five training batches of CIFAR-10 and its test batch, of `rows` random rows each; held_out: another number for the test batch."""
    draws = np.random.default_rng(seed)
    counts = {f"data_batch_{k}": rows for k in range(1, 6)} | {"test_batch": rows if held_out is None else held_out}
    return {name: (draws.integers(0, 256, (n, 3072), np.uint8), draws.integers(0, 10, n).tolist()) for name, n in counts.items()}


def cifar_archive(
    path: Path,
    batches: CifarBatches,
    mode: Literal["w", "w:gz", "w:bz2", "w:xz"] = "w:gz",
    dump: Callable[[np.ndarray, Sequence[int]], bytes] = python2_batch,
) -> Path:
    """cifar-10-python.tar.gz with these batches, and returns its path. dump: pickles one batch."""
    with tarfile.open(path, mode) as archive:
        for name in sorted(batches, reverse=True):  # the official archive is not sorted either
            raw = dump(*batches[name])
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return path


def jpeg(array: np.ndarray, kind: str = "JPEG") -> bytes:
    """An encoded image, of uint8 (H, W, 3). kind: JPEG or WEBP, with quality 95, or PNG."""
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind, **({} if kind == "PNG" else {"quality": 95}))
    return out.getvalue()


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """A smooth random picture, uint8 (height, width, 3), so that JPEG hardly changes it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def imagenet_tree(base: Path, classes: int = 3, each: int = 4, held_out: int = 1) -> Path:
    """The ILSVRC2012 tree with this many images of each class, of different sizes, and a hidden file beside them; returns `base`."""
    for split, count in (("train", each), ("val", held_out)):
        for number in range(classes):
            folder = base / split / f"n{number:08d}"
            folder.mkdir(parents=True)
            for image in range(count):
                pixels = picture(50 + 7 * image, 90 - 9 * number, 100 * number + image + 50 * (split == "val"))
                (folder / f"{folder.name}_{image}.JPEG").write_bytes(jpeg(pixels))
            (folder / "._hidden.JPEG").write_bytes(b"junk of a file manager")
    return base


def downsampled_batches(base: Path, side: int, rows: int = 7, held_out: int = 24, classes: int = 1000) -> Path:
    """The official down-sampled ImageNet as .npz files: ten training batches of `rows` images and val_data; labels count from 1."""
    base.mkdir(parents=True)
    draws = np.random.default_rng(side)
    for name, count in [*((f"train_data_batch_{k}", rows) for k in range(1, 11)), ("val_data", held_out)]:
        data = draws.integers(0, 256, (count, 3 * side * side), np.uint8)
        np.savez(base / f"{name}.npz", data=data, labels=draws.integers(1, classes + 1, count))
    return base


def celeba_folder(base: Path, count: int = 12, zipped: bool = False, train: int | None = None) -> Path:
    """img_align_celeba, a folder or a zip, with list_eval_partition.txt beside it. train: training images; by default a third of them."""
    base.mkdir()
    names = [f"{number + 1:06d}.jpg" for number in range(count)]
    files = {name: jpeg(picture(218, 178, number)) for number, name in enumerate(names)}
    if train is None:
        part = {name: min(2, 6 * i // count // 2) for i, name in enumerate(names)}
    else:
        part = {name: 0 if i < train else 1 + (2 * i >= count + train) for i, name in enumerate(names)}
    (base / "list_eval_partition.txt").write_text("".join(f"{name} {number}\n" for name, number in part.items()))
    if zipped:
        with zipfile.ZipFile(base / "img_align_celeba.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(f"img_align_celeba/{name}", data)
    else:
        (base / "img_align_celeba").mkdir()
        for name, data in files.items():
            (base / "img_align_celeba" / name).write_bytes(data)
    return base


def church_lmdb(base: Path, count: int = 9, held_out: int = 2) -> Path:
    """LSUN Church's two LMDB folders, of JPEG and WEBP images; fewer than 1,000 in each."""
    for split, rows in (("train", count), ("val", held_out)):
        folder = base / f"church_outdoor_{split}_lmdb"
        folder.mkdir(parents=True)
        with lmdb.open(str(folder), map_size=1 << 26) as database, database.begin(write=True) as view:
            for number in range(rows):
                kind = "WEBP" if number % 2 else "JPEG"
                view.put(f"{number * 7919 % 1000:040x}".encode(), jpeg(picture(256, 341, number + 500 * (split == "val")), kind))
    return base


def ffhq_folder(base: Path, count: int = 6, side: int = 128) -> Path:
    """FFHQ's folders of a thousand pngs each: thumbnails128x128 by default, which have the names of the large ones."""
    for number in range(count):
        path = base / f"{number // 1000 * 1000:05d}" / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(picture(side, side, number), "PNG"))
    return base
