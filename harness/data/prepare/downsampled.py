"""The official down-sampled ImageNet (arXiv 1707.08819): train_data_batch_1..10 and val_data, as .npz files or as pickles.

Their labels count from 1 in the order of ILSVRC2012_ID, which is not the order of the class folders; the manifest records the order.
"""

from __future__ import annotations

import math
import re
import tokenize
import zipfile
from collections.abc import Generator
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np

from harness.data.catalogue import DatasetInfo
from harness.data.prepare import batch_pickle
from harness.data.prepare.source import Chunk, Source, SplitSource, as_is, check_rows, listing, not_found, reading, skip
from harness.errors import HarnessError

ROWS = 8192
MOST_LABELS = 64 << 20
"""Bytes; a batch has 128,117 labels of eight bytes."""
_OF_HEADERS = (IndexError, TypeError, SyntaxError, tokenize.TokenError)
"""What NumPy raises for a damaged header, besides ValueError."""
_NAME = re.compile(r"(train_data_batch_(\d+)|val_data)(\.npz)?")


def find(path: Path) -> dict[str, list[Path]]:
    """Split -> batch files in order, in the folder `path` or up to two folders below; empty lists where there are none."""
    files = [file for depth in ("*", "*/*", "*/*/*") for file in path.glob(depth) if _NAME.fullmatch(file.name) and file.is_file()]
    train = [file for file in files if file.name.startswith("train")]
    return {"train": sorted(train, key=_number), "heldout": [file for file in files if file.name.startswith("val")]}


def _number(file: Path) -> int:
    return int(file.stem.rpartition("_")[2])


def read(path: Path, dataset: DatasetInfo, recipe: str | None, official: bool) -> Source:
    """The batches as they are. In memory: some thousand rows of an .npz file at a time, or one complete pickled batch."""
    files = find(path)
    numbers = [_number(file) for file in files["train"]]
    missing = sorted(set(range(1, 11 if official else max(numbers, default=1) + 1)) - set(numbers))
    if missing:
        raise not_found(dataset, path, "no train_data_batch_" + ", _".join(map(str, missing)))
    if len(set(numbers)) != len(numbers) or len(files["heldout"]) > 1:
        names = ", ".join(str(file.relative_to(path)) for batches in files.values() for file in batches)
        raise HarnessError("a batch occurs twice", where=path, found=names, expected="each batch once")
    splits = {split: _split(batches, dataset) for split, batches in files.items() if batches}
    content = listing((file.name, file.stat().st_size) for batches in files.values() for file in batches)
    return Source(splits, content, as_is(dataset, recipe), {"label_order": "ILSVRC2012_ID, as in the down-sampled archives"})


def _split(files: list[Path], dataset: DatasetInfo) -> SplitSource:
    stored = [file.suffix == ".npz" for file in files]
    counts = [_rows(file) if npz else file.stat().st_size // (dataset.dim + 1) for file, npz in zip(files, stored, strict=True)]

    def chunks(start: int) -> Generator[Chunk]:
        first = 0
        while first < len(files) and stored[first] and start >= counts[first]:
            start, first = start - counts[first], first + 1
        return skip(chain.from_iterable((_npz if file.suffix == ".npz" else _pickle)(file, dataset) for file in files[first:]), start)

    return SplitSource(sum(counts), chunks, exact=all(stored))


def _rows(file: Path) -> int:
    expected = "an .npz file with data and labels"
    with reading(file, expected, *_OF_HEADERS), zipfile.ZipFile(file) as archive, archive.open("data.npy") as data:
        return _header(data, archive.getinfo("data.npy").file_size)[0][0]


def _header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and type of an array file of `size` bytes; leaves `file` at its data.

    Raises ValueError, before memory is taken, if the header speaks of another size.
    """
    if np.lib.format.read_magic(file) == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    expected = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or size - file.tell() != expected:
        raise ValueError(f"a header of {dtype} {shape}, which is {expected:,} bytes, before {size - file.tell():,} bytes")
    return shape, fortran, dtype


def _npz(file: Path, dataset: DatasetInfo) -> Generator[Chunk]:
    with reading(file, "an .npz file with data and labels", *_OF_HEADERS), zipfile.ZipFile(file) as archive:
        with archive.open("labels.npy") as stored:
            shape, _, kind = _header(stored, size := archive.getinfo("labels.npy").file_size)
            if size > MOST_LABELS:
                raise ValueError(f"labels of {size:,} bytes")
            labels = np.frombuffer(stored.read(), kind).reshape(shape)
        with archive.open("data.npy") as data:
            (count, *rest), fortran, dtype = _header(data, archive.getinfo("data.npy").file_size)
            if dtype != np.uint8 or rest != [dataset.dim] or fortran or labels.shape != (count,):
                actual = f"{dtype} {(count, *rest)}, labels {labels.shape}"
                expected = f"uint8 (rows, {dataset.dim}) for {dataset.shape}"
                raise HarnessError("wrong image size", where=file, found=actual, expected=expected)
            for first in range(0, count, ROWS):
                raw = data.read(min(ROWS, count - first) * dataset.dim)
                rows = np.frombuffer(raw, np.uint8).reshape(-1, dataset.dim)
                yield check_rows(file, rows, labels[first : first + ROWS], dataset, first_label=1)
            data.read(1)  # at its end zipfile compares the checksum that the archive stores


def _pickle(file: Path, dataset: DatasetInfo) -> Generator[Chunk]:
    with file.open("rb") as stream:
        batch = batch_pickle.load(stream, file)
    yield check_rows(file, batch.get("data"), batch.get("labels"), dataset, first_label=1)
