"""Prepared data sets on disk, checked and memory-mapped. No torch.

    <root>/<name>/
        train.npy, heldout.npy                  uint8, N x C x H x W
        train_labels.npy, heldout_labels.npy    int64, N; labelled sets only
        manifest.json                           written last: what it is, how it was made, size and checksums of each file

Hashing 3.9 GB at every start is too slow: files above 256 MiB are checked by size and a sample then, and as a whole by `verify`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.data.catalogue import DatasetInfo
from harness.errors import HarnessError
from harness.store.files import disk_errors, read_json

MANIFEST = "manifest.json"
FORMAT = 1
WHOLE = 256 << 20
"""Files up to this many bytes are hashed as a whole at every load."""
BLOCK, BLOCKS = 64 << 10, 256
"""Of larger files, this many blocks of this many bytes."""


class Part(NamedTuple):
    """Rows (N, C, H, W) or (N, d), labels (N,) or None, and a SHA-256 that names the content."""

    rows: np.ndarray
    labels: np.ndarray | None
    sha256: str


def digest(*parts: str | np.ndarray) -> str:
    """SHA-256 over texts and arrays."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode() + b"\n" if isinstance(part, str) else np.ascontiguousarray(part))
    return found.hexdigest()


def checksum(path: Path) -> str:
    """SHA-256 of the whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sampled_checksum(path: Path) -> str:
    """SHA-256 of the size and of 256 blocks of 64 KiB, evenly spaced, first and last included; of every byte up to 16 MiB."""
    size = path.stat().st_size
    found = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for block in range(BLOCKS):
            file.seek(block * BLOCK if size <= BLOCK * BLOCKS else block * (size - BLOCK) // (BLOCKS - 1))
            found.update(file.read(BLOCK))
    return found.hexdigest()


def files_of(item: DatasetInfo, split: str, count: int) -> dict[str, tuple[type, tuple[int, ...]]]:
    """Name -> (type, shape) of the arrays of a split of `count` rows."""
    images = {f"{split}.npy": (np.uint8, (count, *item.shape))}
    return images if item.classes is None else {**images, f"{split}_labels.npy": (np.int64, (count,))}


def read_manifest(item: DatasetInfo, root: Path) -> dict[str, Any]:
    """The manifest of a prepared set. Raises HarnessError, with the command that mends it, if there is none or it is not of this set."""
    folder = root / item.name
    path = folder / MANIFEST
    if not path.is_file():
        begun = (root / f"{item.name}.partial").is_dir()
        found = "an unfinished preparation, which the same command continues" if begun else f"no {MANIFEST}"
        raise HarnessError(f"{item.name} is not prepared", where=folder, found=found, expected=item.needs, nearest=item.mend)
    try:
        manifest = read_json(path)
        head = {key: manifest[key] for key in ("format", "name", "shape")}
        for split, entry in manifest["splits"].items():
            for file in files_of(item, split, int(entry["count"])):
                {key: entry["files"][file][key] for key in ("bytes", "sha256", "sampled")}
    except HarnessError as error:
        raise HarnessError("damaged manifest", where=path, found=error.details.get("found", error.what), nearest=item.mend) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HarnessError("damaged manifest", where=path, found=repr(error), expected="what prepare wrote", nearest=item.mend) from None
    expected = {"format": FORMAT, "name": item.name, "shape": list(item.shape)}
    if head != expected:
        raise HarnessError("a manifest of another kind", where=path, found=head, expected=expected, nearest=item.mend)
    return manifest


def open_part(item: DatasetInfo, split: str, root: Path, *, full: bool = False) -> Part:
    """One split, its images memory-mapped. full: every byte is checked, whatever the size. Raises HarnessError for whatever is wrong."""
    folder = root / item.name
    splits = read_manifest(item, root)["splits"]
    if split not in splits:
        found = ", ".join(splits)
        raise HarnessError(f"{item.name} was prepared without {split} rows", where=folder, found=found, expected=split, nearest=item.mend)
    entry = splits[split]
    files = files_of(item, split, entry["count"])
    rows, *others = (_open(item, folder / file, entry["files"][file], *form, full=full) for file, form in files.items())
    labels = np.array(others[0]) if others else None
    if labels is not None and len(labels) and not 0 <= labels.min() <= labels.max() < item.classes:
        found = f"{labels.min()} to {labels.max()}"
        raise HarnessError("label out of range", where=folder, found=found, expected=f"0 to {item.classes - 1}", nearest=item.mend)
    return Part(rows, labels, digest(*(entry["files"][file]["sha256"] for file in files)))


def _open(item: DatasetInfo, path: Path, entry: dict, dtype: type, shape: tuple[int, ...], *, full: bool) -> np.ndarray:
    def broken(what: str, found: object, expected: object) -> HarnessError:
        return HarnessError(f"{item.name}: {what}", where=path, found=found, expected=expected, nearest=item.mend)

    if not path.is_file():
        raise broken("missing file", "nothing", path.name)
    with disk_errors(path, "read"):
        if (size := path.stat().st_size) != entry["bytes"]:
            raise broken("wrong file size", f"{size} bytes", f"{entry['bytes']} bytes")
        kind = "sha256" if full or size <= WHOLE else "sampled"
        if (found := checksum(path) if kind == "sha256" else sampled_checksum(path)) != entry[kind]:
            raise broken("checksum mismatch", found, entry[kind])
        try:
            array = np.load(path, mmap_mode="c", allow_pickle=False)  # copy-on-write, for torch warns about read-only maps
        except ValueError as error:
            raise broken("not an array file", error, "npy") from None
    if array.dtype != dtype or array.shape != shape:
        raise broken("wrong array", f"{array.dtype} {array.shape}", f"{np.dtype(dtype)} {shape}")
    return array
