"""Prepared data sets on disk, checked and memory-mapped. No torch.

    <root>/<name>/
        train.npy, heldout.npy                  uint8, N x C x H x W
        train_labels.npy, heldout_labels.npy    int64, N; labelled sets only
        manifest.json                           written last: name, source and recipe, size and checksums of each file

Hashing 3.9 GB at every start is too slow: at loading, files above 256 MiB are checked by size and by a sample; `verify` hashes every byte.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.config.custom_data import MANIFEST
from harness.data.catalogue import DatasetInfo
from harness.errors import DamagedFile, HarnessError, MissingFile
from harness.store.files import disk_errors, read_json

FORMAT = 1
HASHED_BYTES = 256 << 20
"""At every load, files of up to this many bytes are hashed completely."""
BLOCK, BLOCKS = 64 << 10, 256
"""Size in bytes and number of the blocks that are hashed of larger files."""


class SplitArrays(NamedTuple):
    """Rows (N, C, H, W) or (N, d), labels (N,) or None, and a SHA-256 that names the content."""

    rows: np.ndarray
    labels: np.ndarray | None
    sha256: str


def digest(*parts: str | np.ndarray) -> str:
    """SHA-256 over texts and arrays."""
    content = hashlib.sha256()
    for part in parts:
        content.update(part.encode() + b"\n" if isinstance(part, str) else np.ascontiguousarray(part).data)
    return content.hexdigest()


def checksum(path: Path) -> str:
    """SHA-256 of all bytes of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sampled_checksum(path: Path) -> str:
    """SHA-256 of the size and of 256 blocks of 64 KiB, evenly spaced, first and last included; of every byte up to 16 MiB."""
    size = path.stat().st_size
    content = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for block in range(BLOCKS):
            file.seek(block * BLOCK if size <= BLOCK * BLOCKS else block * (size - BLOCK) // (BLOCKS - 1))
            content.update(file.read(BLOCK))
    return content.hexdigest()


def split_files(dataset: DatasetInfo, split: str, count: int) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
    """File name -> (type, shape) of the arrays of a split of `count` rows."""
    files: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {f"{split}.npy": (np.uint8, (count, *dataset.shape))}
    if dataset.classes:
        files[f"{split}_labels.npy"] = (np.int64, (count,))
    return files


def read_manifest(dataset: DatasetInfo, root: Path) -> dict[str, Any]:
    """The manifest of a prepared set. Raises HarnessError, with the command that fixes it, if it is missing, damaged or of another set."""
    folder = root / dataset.name
    path = folder / MANIFEST
    if not path.is_file():
        unfinished = (root / f"{dataset.name}.partial").is_dir()
        state = "an unfinished preparation, which the same command continues" if unfinished else f"no {MANIFEST}"
        raise MissingFile(f"{dataset.name} is not prepared", where=folder, found=state, expected=dataset.needs, nearest=dataset.fix)
    try:
        manifest = read_json(path)
        head = {key: manifest[key] for key in ("format", "name", "shape")}
        for split, entry in manifest["splits"].items():
            for file in split_files(dataset, split, int(entry["count"])):
                {key: entry["files"][file][key] for key in ("bytes", "sha256", "sampled")}
    except (HarnessError, KeyError, TypeError, ValueError, AttributeError) as error:
        cause = error.details.get("found", error.what) if isinstance(error, HarnessError) else repr(error)
        raise DamagedFile("damaged manifest", where=path, found=cause, expected="what prepare wrote", nearest=dataset.fix) from None
    expected = {"format": FORMAT, "name": dataset.name, "shape": list(dataset.shape)}
    if head != expected:
        raise DamagedFile("a manifest of another kind", where=path, found=head, expected=expected, nearest=dataset.fix)
    return manifest


def open_split(dataset: DatasetInfo, split: str, root: Path, *, full: bool = False) -> SplitArrays:
    """One split, its images memory-mapped. full: hash every byte, whatever the size. Raises HarnessError for a missing or damaged file."""
    folder = root / dataset.name
    splits = read_manifest(dataset, root)["splits"]
    if split not in splits:
        what = f"{dataset.name} was prepared without {split} rows"
        raise MissingFile(what, where=folder, found=", ".join(splits), expected=split, nearest=dataset.fix)
    entry = splits[split]
    files = split_files(dataset, split, entry["count"])
    rows, *others = (_open(dataset, folder / file, entry["files"][file], *form, full=full) for file, form in files.items())
    labels = np.array(others[0]) if others else None
    if labels is not None:
        check_labels(dataset, labels, folder, dataset.fix)
    return SplitArrays(rows, labels, digest(*(entry["files"][file]["sha256"] for file in files)))


def check_labels(dataset: DatasetInfo, labels: np.ndarray, where: object, fix: str) -> None:
    """Raises HarnessError for labels that are not classes of the data set."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < dataset.classes:
        limits, expected = f"{labels.min()} to {labels.max()}", f"0 to {dataset.classes - 1}"
        raise DamagedFile("label out of range", where=where, found=limits, expected=expected, nearest=fix)


def _open(
    dataset: DatasetInfo, path: Path, entry: dict[str, Any], dtype: type[np.generic], shape: tuple[int, ...], *, full: bool
) -> np.ndarray:
    def damaged(what: str, actual: object, expected: object) -> DamagedFile:
        return DamagedFile(f"{dataset.name}: {what}", where=path, found=actual, expected=expected, nearest=dataset.fix)

    if not path.is_file():
        raise MissingFile(f"{dataset.name}: missing file", where=path, found="no file", expected=path.name, nearest=dataset.fix)
    with disk_errors(path, "read"):
        size = path.stat().st_size
        kind = "sha256" if full or size <= HASHED_BYTES else "sampled"
        sha256 = checksum(path) if kind == "sha256" else sampled_checksum(path)
        if (size, sha256) != (entry["bytes"], entry[kind]):
            raise damaged("checksum mismatch", f"{size} bytes, {sha256}", f"{entry['bytes']} bytes, {entry[kind]}")
        try:
            array = np.load(path, mmap_mode="c", allow_pickle=False)  # copy-on-write, because torch warns about read-only maps
        except ValueError as error:
            raise damaged("not an array file", error, "npy") from None
    if array.dtype != dtype or array.shape != shape:
        raise damaged("wrong array", f"{array.dtype} {array.shape}", f"{np.dtype(dtype)} {shape}")
    return array
