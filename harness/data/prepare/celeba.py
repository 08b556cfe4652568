"""CelebA, aligned and cropped (178 x 218), the official files or Kaggle's: images in a folder or a zip, and the partition list."""

from __future__ import annotations

import codecs
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path, PurePosixPath

import numpy as np

from harness.data.catalogue import DatasetInfo
from harness.data.prepare.images import ImageSplit, decode, image_split, resizer
from harness.data.prepare.source import Source, damaged, image_bytes, listing, not_found, reading
from harness.errors import MissingFile

_PARTITIONS = ("list_eval_partition.txt", "list_eval_partition.csv")
_SPLIT = {"0": "train", "1": "heldout", "2": "heldout"}  # the official validation and test sets together
_MOST_BYTES = 64 << 20
"""The official list has 4 MB."""


def read(path: Path, dataset: DatasetInfo, recipe: str | None, official: bool) -> Source:
    """Rows in the order of the partition list; its training images are `train`, validation and test images `heldout`.

    `path`: the folder of the images or one above it, the official root with Eval/ and Img/, or a zip; the list lies beside the images, in
    Eval/, or in the zip.
    """
    images = next((candidate for candidate in _candidates(path) if _holds_images(candidate)), None)
    partition = _partition_text(path)
    if partition is None or images is None:
        lacking = f"no {' or '.join(_PARTITIONS)}" if partition is None else "no folder or zip with .jpg files"
        raise not_found(dataset, path, lacking)
    recipe = recipe or dataset.recipe
    resize = resizer(recipe, dataset.shape[1])
    names = _read_partition(*partition)
    fetch = _fetcher(images, names)

    def split(files: list[str]) -> ImageSplit:
        def row(index: int) -> np.ndarray:
            return decode(fetch(files[index]), f"{images}/{files[index]}", resize, sizes={(178, 218)})

        return image_split(files, lambda: nullcontext(row))

    splits = {name: split(files) for name, files in names.items() if files}
    return Source({**splits}, listing((name, file) for name, files in names.items() for file in files), recipe)


def _candidates(path: Path) -> list[Path]:
    """Where the images may be."""
    name = "img_align_celeba"
    return [base / below for base in (path, path / "Img") for below in (f"{name}/{name}", name, f"{name}.zip", "")]


def _holds_images(path: Path) -> bool:
    if path.is_dir():
        return any(file.is_file() for file in path.glob("*.jpg"))
    return path.is_file() and zipfile.is_zipfile(path)


def _partition_text(path: Path) -> tuple[str, bytes] | None:
    """Place and content of the partition list; None without one. Raises HarnessError if it cannot be read or is too large."""
    places = [folder / below / name for folder in (path, path.parent) for below in ("", "Eval", "..", "../Eval") for name in _PARTITIONS]
    place = next((file for file in places if file.is_file()), None)
    if place is not None:
        with reading(place):
            if place.stat().st_size > _MOST_BYTES:
                raise damaged(place, f"{place.stat().st_size:,} bytes", f"at most {_MOST_BYTES:,} bytes")
            return str(place), place.read_bytes()
    if not path.is_file():
        return None
    with reading(path, "a zip"), zipfile.ZipFile(path) as archive:
        member = next((info for info in archive.infolist() if PurePosixPath(info.filename).name in _PARTITIONS), None)
        if member is None:
            return None
        if member.file_size > _MOST_BYTES:
            raise damaged(f"{path}/{member.filename}", f"{member.file_size:,} bytes", f"at most {_MOST_BYTES:,} bytes")
        return f"{path}/{member.filename}", archive.read(member)


def _read_partition(where: str, content: bytes) -> dict[str, list[str]]:
    """File names of each split. The .csv has a header and commas; empty lines are skipped, and an image may be listed once only."""
    names: dict[str, list[str]] = {"train": [], "heldout": []}
    with reading(where, "lines such as 000001.jpg 0"):
        lines = content.removeprefix(codecs.BOM_UTF8).decode("ascii").splitlines()  # spreadsheets write the mark
    table = where.endswith(".csv")
    listed: set[str] = set()
    for number, line in enumerate(lines, 1):
        fields = line.split("," if table else None)
        if not line.strip() or (table and number == 1 and "image_id" in fields[0]):
            continue
        name, kind = [*(field.strip() for field in fields), "", ""][:2]
        if kind not in _SPLIT or not name.endswith(".jpg") or len(fields) != 2:
            raise damaged(f"{where}:{number}", line.strip(), "a line such as 000001.jpg 0")
        if name in listed:
            raise damaged(f"{where}:{number}", f"{name} a second time", "each image once, in one split")
        listed.add(name)
        names[_SPLIT[kind]].append(name)
    return names


def _fetcher(images: Path, names: dict[str, list[str]]) -> Callable[[str], bytes]:
    """The function from a file name to its bytes. Raises HarnessError if an image of the partition list is missing."""
    with reading(images, "img_align_celeba.zip"):
        archive = None if images.is_dir() else zipfile.ZipFile(images)
        members = [file.name for file in images.iterdir()] if archive is None else archive.namelist()
    members_by_name = {PurePosixPath(member).name: member for member in members if member.endswith(".jpg")}
    missing = [name for files in names.values() for name in files if name not in members_by_name]
    if missing:
        count = f"{len(missing)} images of the partition list are missing, the first {missing[0]}"
        raise MissingFile("incomplete archive", where=images, found=count, expected="every image of the list")

    def fetch(name: str) -> bytes:
        with reading(f"{images}/{name}"):
            return image_bytes(images, name) if archive is None else image_bytes(archive, members_by_name[name])

    return fetch
