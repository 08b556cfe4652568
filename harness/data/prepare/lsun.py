"""LSUN Church outdoor (arXiv 1506.03365): one LMDB folder (data.mdb) per split, whose values are encoded images, or exported images."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from harness.data import lmdb_reader
from harness.data.catalogue import DatasetInfo
from harness.data.prepare.folders import images_below
from harness.data.prepare.images import ImageSplit, decode, image_split, resizer
from harness.data.prepare.source import Source, damaged, image_bytes, listing, not_found, reading

Result = TypeVar("Result")
_SPLITS = {"train": "church_outdoor_train", "heldout": "church_outdoor_val"}


def read(path: Path, dataset: DatasetInfo, recipe: str | None, official: bool) -> Source:
    """Rows in the order of the keys. `path`: the folder of both splits, or the training split itself. In memory: the keys.

    A split is an LMDB folder, or a folder of exported images, whose names are the keys; without church_outdoor_val there are no held-out
    rows.
    """
    if (path / "data.mdb").is_file():
        folders = {"train": path}
    else:
        places = {split: [path / f"{name}_lmdb", path / name] for split, name in _SPLITS.items()}
        folders = {split: place for split, both in places.items() for place in reversed(both) if place.is_dir()}
        if "train" not in folders and images_below(path):
            folders = {"train": path}
    if "train" not in folders:
        raise not_found(dataset, path, f"no {_SPLITS['train']}_lmdb/data.mdb and no exported images")
    recipe = recipe or dataset.recipe
    splits, keys = {}, []
    for split, folder in folders.items():
        if (folder / "data.mdb").is_file():
            names = [key.hex() for key in _keys(folder)]
            splits[split] = _database_split(dataset, folder, names, recipe)
        else:
            names = sorted(images_below(folder), key=lambda name: Path(name).name)
            splits[split] = _image_split(dataset, folder, names, recipe)
        keys += [(split, name) for name in names]
    return Source({**splits}, listing(keys), recipe)


def _image_split(dataset: DatasetInfo, folder: Path, names: list[str], recipe: str) -> ImageSplit:
    resize = resizer(recipe, dataset.shape[1])

    def row(index: int) -> np.ndarray:
        file = folder / names[index]
        with reading(file):
            data = image_bytes(folder, names[index])
        return decode(data, file, resize, smallest=dataset.shape[1])

    return image_split(names, lambda: contextlib.nullcontext(row))


def _database_split(dataset: DatasetInfo, folder: Path, names: list[str], recipe: str) -> ImageSplit:
    """names: the keys in hexadecimal."""
    resize = resizer(recipe, dataset.shape[1])

    @contextlib.contextmanager
    def rows() -> Iterator[Callable[[int], np.ndarray]]:
        with lmdb_reader.opened(folder) as database:
            lock = threading.Lock()  # one image at a time; decoding takes most of the time

            def row(index: int) -> np.ndarray:
                key = bytes.fromhex(names[index])
                with lock:
                    data = _checked(folder, database.value, key)
                return decode(data, f"{folder}, {key.decode('latin1')}", resize, smallest=dataset.shape[1])

            yield row

    return image_split(names, rows)


def _keys(folder: Path) -> list[bytes]:
    with lmdb_reader.opened(folder) as database:
        return _checked(folder, database.keys)


def _checked(folder: Path, function: Callable[..., Result], *arguments: bytes) -> Result:
    """function(*arguments) of an open database. Raises DamagedFile if it cannot be read."""
    try:
        return function(*arguments)
    except lmdb_reader.Unreadable as error:
        raise damaged(folder / "data.mdb", error, "an undamaged LMDB file") from None
