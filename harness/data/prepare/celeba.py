"""CelebA, aligned and cropped (178 x 218): img_align_celeba as a folder or a zip, and list_eval_partition.txt."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from harness.data.catalogue import DatasetInfo
from harness.data.prepare.images import decode, image_split, resizer
from harness.data.prepare.source import Source, SplitSource, damaged, listing, not_found, reading
from harness.errors import MissingFile

_PARTITION = "list_eval_partition.txt"
_SPLIT = {"0": "train", "1": "heldout", "2": "heldout"}  # the official validation and test sets together


def read(path: Path, dataset: DatasetInfo, recipe: str | None, official: bool) -> Source:
    """Rows in the order of the partition file; its training images are `train`, validation and test images `heldout`."""
    partitions = [folder / below / _PARTITION for folder in (path, path.parent) for below in ("", "Eval")]
    partition = next((file for file in partitions if file.is_file()), None)
    candidates = (path / "img_align_celeba", path / "img_align_celeba.zip", path)
    images = next((candidate for candidate in candidates if _holds_images(candidate)), None)
    if partition is None or images is None:
        lacking = f"no {_PARTITION}" if partition is None else "no img_align_celeba folder or zip with .jpg files"
        raise not_found(dataset, path, lacking)
    recipe = recipe or dataset.recipe
    resize = resizer(recipe, dataset.shape[1])
    names = _read_partition(partition)
    fetch = _fetcher(images, names)

    def split(files: list[str]) -> SplitSource:
        def row(index: int) -> np.ndarray:
            return decode(fetch(files[index]), f"{images}/{files[index]}", resize, sizes={(178, 218)})

        return image_split(len(files), row)

    splits = {name: split(files) for name, files in names.items() if files}
    return Source(splits, listing((name, file) for name, files in names.items() for file in files), recipe)


def _holds_images(path: Path) -> bool:
    if path.is_dir():
        return next(path.glob("*.jpg"), None) is not None
    return path.is_file() and zipfile.is_zipfile(path)


def _read_partition(path: Path) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {"train": [], "heldout": []}
    with reading(path, "lines such as 000001.jpg 0"):
        lines = path.read_text("ascii").splitlines()
    for number, line in enumerate(lines, 1):
        name, kind = [*line.split(), "", ""][:2]
        if kind not in _SPLIT or not name.endswith(".jpg") or len(line.split()) != 2:
            raise damaged(f"{path}:{number}", line.strip() or "an empty line", "a line such as 000001.jpg 0")
        names[_SPLIT[kind]].append(name)
    return names


def _fetcher(images: Path, names: dict[str, list[str]]) -> Callable[[str], bytes]:
    """The function from a file name to its bytes. Raises HarnessError if an image of the partition file is missing."""
    with reading(images, "img_align_celeba.zip"):
        archive = None if images.is_dir() else zipfile.ZipFile(images)
        members = [file.name for file in images.iterdir()] if archive is None else archive.namelist()
    members_by_name = {PurePosixPath(member).name: member for member in members if member.endswith(".jpg")}
    missing = [name for files in names.values() for name in files if name not in members_by_name]
    if missing:
        count = f"{len(missing)} images of {_PARTITION} are missing, the first {missing[0]}"
        raise MissingFile("incomplete archive", where=images, found=count, expected="every image of the list")

    def fetch(name: str) -> bytes:
        with reading(f"{images}/{name}"):
            return (images / name).read_bytes() if archive is None else archive.read(members_by_name[name])

    return fetch
