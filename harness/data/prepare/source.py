"""What a reader of an archive format passes to the writer."""

from __future__ import annotations

import contextlib
import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.catalogue import DatasetInfo
from harness.errors import DamagedFile, HarnessError, MissingFile, printable
from harness.locations import read_regular

AGAIN = "download it again, then run the same command"
PARTIAL = "the complete set, or --partial for a part of it"
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z")
MOST_BYTES = 128 << 20
"""Size of the largest encoded image that is read. The images of all sets here are smaller than 30 MB."""
Chunk = tuple[np.ndarray, np.ndarray | None]
"""Images, uint8 (n, C, H, W), and labels, int64 (n,), or None for unlabelled sets."""
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, RuntimeError, zlib.error, zipfile.BadZipFile, tarfile.TarError)


@dataclass(frozen=True)
class SplitSource:
    """One split. chunks(start) yields its rows from row `start` on, always in the same order. exact: False where `count` is an estimate.

    skipped: the damaged images that are left out, by name.
    """

    count: int
    chunks: Callable[[int], Generator[Chunk]]
    exact: bool = True
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """An archive or folder, opened. listing: digest of its names and sizes; facts: what the manifest records besides the recipe."""

    splits: dict[str, SplitSource]
    listing: str
    recipe: str
    facts: dict[str, Any] = field(default_factory=dict)


def listing(names: Iterable[object]) -> str:
    """SHA-256 over names and the values listed with them."""
    content = hashlib.sha256()
    for name in names:
        content.update(f"{name}\n".encode("utf-8", "surrogateescape"))
    return content.hexdigest()


def skip(chunks: Iterable[Chunk], start: int) -> Generator[Chunk]:
    """The chunks without their first `start` rows."""
    for images, labels in chunks:
        if start < len(images):
            yield images[start:], None if labels is None else labels[start:]
        start = max(0, start - len(images))


def as_is(dataset: DatasetInfo, recipe: str | None) -> str:
    """The recipe of sources whose images already have the right size. Raises HarnessError for any other recipe."""
    if recipe not in (None, "as-is"):
        raise HarnessError("the images of this source are not resized", where=dataset.name, found=f"recipe {recipe}", expected="no recipe")
    return "as-is"


def not_found(dataset: DatasetInfo, path: Path, found: object, searched: bool = False) -> MissingFile:
    """The error for a source without the files of the format; it names what has to be unpacked first.

    searched: the source is an archive that was opened, so unpacking it would not help.
    """
    places = [] if searched else [path] if path.is_file() else sorted(path.iterdir())
    if packed := [place.name for place in places if place.suffix.lower() in ARCHIVES and place.is_file()]:
        found = f"{found}; unpack {packed[0]}{f' and {len(packed) - 1} more' if len(packed) > 1 else ''} first"
    return MissingFile(f"no {dataset.name} in this source", where=path, found=found, expected=dataset.needs, nearest=dataset.fix)


def damaged(where: object, error: object, expected: str = "an undamaged file", nearest: str = AGAIN) -> DamagedFile:
    """The error for a member that cannot be read."""
    text = printable(" ".join(str(error).split()) or type(error).__name__, 300)
    return DamagedFile("damaged archive or image", where=where, found=text, expected=expected, nearest=nearest)


@contextlib.contextmanager
def reading(where: object, expected: str = "an undamaged file", *others: type[Exception], nearest: str = AGAIN) -> Iterator[None]:
    """Turns what a damaged file raises while the block reads it, and the `others`, into the error `damaged`."""
    kinds: tuple[type[Exception], ...] = (*_UNREADABLE, *others)
    try:
        yield
    except kinds as error:
        raise damaged(where, error, expected, nearest) from None


def image_bytes(folder: Path | zipfile.ZipFile, name: str) -> bytes:
    """An encoded image of a folder or zip. Raises OSError, ValueError or BadZipFile, before it takes memory, for one that is too large."""
    if isinstance(folder, Path):
        return read_regular(folder / name, MOST_BYTES)
    if (size := folder.getinfo(name).file_size) > MOST_BYTES:
        raise ValueError(f"{size:,} bytes, more than an image has")
    return folder.read(name)


def check_rows(where: object, data: object, labels: object, dataset: DatasetInfo, first_label: int = 0) -> Chunk:
    """A chunk from flat rows (n, C*H*W) uint8 and labels counted from `first_label`. Raises HarnessError for a wrong size or label."""
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != dataset.dim:
        actual = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise HarnessError("wrong image size", where=where, found=actual, expected=f"uint8 (rows, {dataset.dim}) for {dataset.shape}")
    with reading(where, "labels that are whole numbers", TypeError, OverflowError):
        given = np.asarray(labels)
        if given.dtype.kind not in "iu":
            raise TypeError(f"labels of type {given.dtype}")
        counted = given.astype(np.int64) - first_label
    if counted.shape != (len(data),):
        raise damaged(where, f"labels of shape {counted.shape} for {len(data)} images", "one label per image")
    return data.reshape(-1, *dataset.shape), counted
