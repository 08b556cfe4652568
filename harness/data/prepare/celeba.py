"""CelebA, aligned and cropped (178 x 218): img_align_celeba as a folder or a zip, and list_eval_partition.txt."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from harness.data.catalogue import DatasetInfo
from harness.data.prepare.images import decode, image_split, resizer
from harness.data.prepare.source import Source, SplitSource, damaged, listing, not_found
from harness.errors import HarnessError

_PARTITION = "list_eval_partition.txt"
_SPLIT = {"0": "train", "1": "heldout", "2": "heldout"}  # the official validation and test sets together


def read(path: Path, dataset: DatasetInfo, recipe: str | None, official: bool) -> Source:
    """Rows in the order of the partition file; its training images are `train`, validation and test images `heldout`."""
    places = [folder / below / _PARTITION for folder in (path, path.parent) for below in ("", "Eval")]
    partition = next((file for file in places if file.is_file()), None)
    images = next((found for found in (path / "img_align_celeba", path / "img_align_celeba.zip", path) if _holds_images(found)), None)
    if partition is None or images is None:
        raise not_found(dataset, path, f"no {_PARTITION}" if partition is None else "no img_align_celeba folder or zip with .jpg files")
    chosen = recipe or dataset.recipe
    resize = resizer(chosen, dataset.shape[1])
    names = _read_partition(partition)
    fetch = _fetcher(images, names)

    def split(found: list[str]) -> SplitSource:
        def row(index: int) -> np.ndarray:
            name = found[index]
            return decode(fetch(name), f"{images}/{name}", resize, sizes={(178, 218)})

        return image_split(len(found), row)

    splits = {split_name: split(found) for split_name, found in names.items() if found}
    return Source(splits, listing((kind, name) for kind, found in names.items() for name in found), chosen)


def _holds_images(path: Path) -> bool:
    if path.is_dir():
        return next(path.glob("*.jpg"), None) is not None
    return path.is_file() and zipfile.is_zipfile(path)


def _read_partition(path: Path) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {"train": [], "heldout": []}
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(path, error, "lines such as 000001.jpg 0") from None
    for number, line in enumerate(lines, 1):
        name, kind = [*line.split(), "", ""][:2]
        if kind not in _SPLIT or not name.endswith(".jpg") or len(line.split()) != 2:
            raise damaged(f"{path}:{number}", line.strip() or "an empty line", "a line such as 000001.jpg 0")
        names[_SPLIT[kind]].append(name)
    return names


def _fetcher(images: Path, names: dict[str, list[str]]) -> Callable[[str], bytes]:
    """The function from a file name to its bytes. Raises HarnessError if an image of the partition file is not there."""
    archive = None
    try:
        if images.is_dir():
            there = {file.name: file for file in images.iterdir()}
        else:
            archive = zipfile.ZipFile(images)
            there = {PurePosixPath(name).name: name for name in archive.namelist() if name.endswith(".jpg")}
    except (OSError, zipfile.BadZipFile) as error:
        raise damaged(images, error, "img_align_celeba.zip") from None
    missing = [name for found in names.values() for name in found if name not in there]
    if missing:
        found = f"{len(missing)} images of {_PARTITION} are missing, the first {missing[0]}"
        raise HarnessError("incomplete archive", where=images, found=found, expected="every image of the list")

    def fetch(name: str) -> bytes:
        try:
            return there[name].read_bytes() if archive is None else archive.read(there[name])
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise damaged(f"{images}/{name}", error) from None

    return fetch
