"""What a reader of an archive format hands to the writer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.data.catalogue import DatasetInfo
from harness.errors import HarnessError

AGAIN = "fetch it again, then run the same command"
Chunk = tuple[np.ndarray, np.ndarray | None]
"""Images, uint8 (n, C, H, W), and labels, int64 (n,), or None for unlabelled sets."""


@dataclass(frozen=True)
class SplitSource:
    """One split. chunks(start) yields its rows from row `start` on, in the same order every time. exact: False where `count` is a guess."""

    count: int
    chunks: Callable[[int], Iterator[Chunk]]
    exact: bool = True


@dataclass(frozen=True)
class Source:
    """An archive or folder, opened. listing: digest of its names and sizes; facts: what the manifest should tell beside the recipe."""

    splits: dict[str, SplitSource]
    listing: str
    recipe: str
    facts: dict[str, str] = field(default_factory=dict)


def listing(names: Iterable[object]) -> str:
    """SHA-256 over names (and whatever stands beside them)."""
    found = hashlib.sha256()
    for name in names:
        found.update(f"{name}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def skip(chunks: Iterable[Chunk], start: int) -> Iterator[Chunk]:
    """The chunks without their first `start` rows."""
    for images, labels in chunks:
        if start < len(images):
            yield images[start:], None if labels is None else labels[start:]
        start = max(0, start - len(images))


def as_is(dataset: DatasetInfo, recipe: str | None) -> str:
    """The recipe of sources whose images have their size already. Raises HarnessError when another one was asked for."""
    if recipe not in (None, "as-is"):
        raise HarnessError("these images have their size already", where=dataset.name, found=f"recipe {recipe}", expected="no recipe")
    return "as-is"


def not_found(dataset: DatasetInfo, path: Path, found: object) -> HarnessError:
    """The error for a source without the files of the format."""
    return HarnessError(f"{dataset.name} is not in there", where=path, found=found, expected=dataset.needs, nearest=dataset.fix)


def damaged(where: object, error: object, expected: str = "a whole file") -> HarnessError:
    """The error for a member that cannot be read."""
    text = " ".join(str(error).split()) or type(error).__name__
    return HarnessError("damaged archive or image", where=where, found=text, expected=expected, nearest=AGAIN)


def check_rows(where: object, data: object, labels: object, dataset: DatasetInfo, first_label: int = 0) -> Chunk:
    """A chunk from flat rows (n, C*H*W) uint8 and labels counted from `first_label`. Raises HarnessError for a wrong size or label."""
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != dataset.dim:
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise HarnessError("wrong image size", where=where, found=found, expected=f"uint8 (rows, {dataset.dim}) for {dataset.shape}")
    try:
        counted = np.asarray(labels, dtype=np.int64) - first_label
    except (TypeError, ValueError, OverflowError) as error:
        raise damaged(where, error, "whole-number labels") from None
    if counted.shape != (len(data),):
        raise damaged(where, f"labels of shape {counted.shape} for {len(data)} images", "one label an image")
    return data.reshape(-1, *dataset.shape), counted
