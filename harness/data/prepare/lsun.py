"""LSUN Church outdoor: one LMDB folder (data.mdb) per split, whose values are encoded images (arXiv 1506.03365)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import lmdb
import numpy as np

from harness.data.catalogue import DatasetInfo
from harness.data.prepare.images import decode, image_split, resizer
from harness.data.prepare.source import Chunk, Source, SplitSource, damaged, listing, not_found

_FOLDERS = {"train": "church_outdoor_train_lmdb", "heldout": "church_outdoor_val_lmdb"}


def read(path: Path, dataset: DatasetInfo, recipe: str | None, official: bool) -> Source:
    """Rows in the order of the keys. `path`: the folder of both LMDB folders, or the training one itself. In memory: the keys."""
    if (path / "data.mdb").is_file():
        folders = {"train": path}
    else:
        folders = {split: path / name for split, name in _FOLDERS.items() if (path / name / "data.mdb").is_file()}
    if "train" not in folders:
        raise not_found(dataset, path, f"no {_FOLDERS['train']}/data.mdb; unpack the zip first")
    recipe = recipe or dataset.recipe
    keys = {split: _keys(folder) for split, folder in folders.items()}
    splits = {split: _split(dataset, folder, keys[split], recipe) for split, folder in folders.items()}
    return Source(splits, listing((split, key.hex()) for split in keys for key in keys[split]), recipe)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[lmdb.Transaction]:
    """A read-only view. Raises HarnessError for a file that is not an LMDB, or is truncated: reading it would end in a bus error."""
    file = folder / "data.mdb"
    try:
        with lmdb.open(str(folder), readonly=True, lock=False, readahead=False, create=False) as database:
            size, expected = file.stat().st_size, (database.info()["last_pgno"] + 1) * database.stat()["psize"]
            if size < expected:
                raise damaged(file, f"{size} bytes", f"{expected} bytes")
            with database.begin(buffers=False) as view:
                yield view
    except (lmdb.Error, OSError) as error:  # not `reading`, which would also hide faults of the block that uses the view
        raise damaged(file, error, "an LMDB file") from None


def _keys(folder: Path) -> list[bytes]:
    with _opened(folder) as view:
        return [bytes(key) for key in view.cursor().iternext(keys=True, values=False)]


def _split(dataset: DatasetInfo, folder: Path, keys: list[bytes], recipe: str) -> SplitSource:
    resize = resizer(recipe, dataset.shape[1])

    def chunks(start: int) -> Generator[Chunk]:
        with _opened(folder) as view:
            lock = threading.Lock()  # a view serves one thread at a time; decoding takes most of the time

            def row(index: int) -> np.ndarray:
                with lock:
                    data = bytes(view.get(keys[index], b""))
                return decode(data, f"{folder}, {keys[index].decode('latin1')}", resize, smallest=dataset.shape[1])

            yield from image_split(len(keys), row).chunks(start)

    return SplitSource(len(keys), chunks)
