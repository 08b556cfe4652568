"""From a source to <root>/<name>/, in pieces: a crash at any moment leaves either nothing or a partial result that the next call continues.

Everything is written into <root>/<name>.partial/. journal.json there says how many rows of each split are safely on the disk; whatever
follows them is truncated and written again. At the end the arrays move to <root>/<name>/, and manifest.json, without which the set is not
valid, moves last.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from harness.data.arrays import FORMAT, MANIFEST, check_labels, checksum, sampled_checksum, split_files
from harness.data.catalogue import DatasetInfo
from harness.data.prepare.source import AGAIN, Source, SplitSource
from harness.errors import HarnessError
from harness.store.files import disk_errors, read_json, write_json

JOURNAL, LOCK = "journal.json", "lock"
Progress = Callable[[str, int, int], None]
"""progress(split, rows done, rows in total)."""


@contextlib.contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """<folder>.partial, created and locked by this process. Raises HarnessError if another process holds the lock."""
    partial = folder.with_name(f"{folder.name}.partial")
    with disk_errors(partial):
        partial.mkdir(parents=True, exist_ok=True)
        lock = (partial / LOCK).open("ab")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process ends, however it ends
        except BlockingIOError:
            raise HarnessError("another process is preparing this data set", where=partial, nearest="wait for it") from None
        except OSError:
            pass  # the file system has no locks
        try:
            yield partial
        finally:
            with contextlib.suppress(OSError):  # nothing was written: leave nothing
                if [file.name for file in partial.iterdir()] == [LOCK]:
                    shutil.rmtree(partial)


def check_space(source: Source, dataset: DatasetInfo, partial: Path) -> None:
    """Raises HarnessError if the rows still to be written do not fit on the disk."""
    row = dataset.dim + (8 if dataset.classes else 0)
    written = sum(file.stat().st_size for file in partial.glob("*.npy"))
    needed = sum(split.count for split in source.splits.values()) * row + (1 << 20) - written
    free = shutil.disk_usage(partial).free
    if free < needed:
        available, expected = f"{free / 2**20:,.0f} MiB free", f"{needed / 2**20:,.0f} MiB"
        advice = "$HARNESS_DATA on another disk"
        raise HarnessError("the disk is too small", where=partial.parent, found=available, expected=expected, nearest=advice)


def write(
    source: Source, dataset: DatasetInfo, folder: Path, partial: Path, fingerprint: str, facts: dict[str, Any], show: Progress
) -> None:
    """All splits of the source, then the manifest. A partial result with the same fingerprint is continued; facts: for the manifest.

    Raises HarnessError for a full disk and, if facts["official"], for a number of rows that is not the data set's.
    """
    rows = _begin(partial, fingerprint)
    for split, part in source.splits.items():
        _write_split(partial, split, part, dataset, rows, fingerprint, show)
        expected = getattr(dataset, split) - len(part.skipped)
        if facts["official"] and rows[split] != expected:
            raise HarnessError(f"wrong number of {split} images", where=dataset.name, found=rows[split], expected=expected, nearest=AGAIN)
    facts = {**facts, **_shared_images(partial, dataset, source)}
    splits = {split: {"count": rows[split], "files": _sums(partial, split, dataset, rows[split])} for split in source.splits}
    head = {"format": FORMAT, "name": dataset.name, "shape": list(dataset.shape)}
    write_json(partial / MANIFEST, {**head, **facts, "fingerprint": fingerprint, "splits": splits})
    with disk_errors(folder):
        folder.mkdir(exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)
        for split in splits:
            for name in split_files(dataset, split, rows[split]):
                (partial / name).replace(folder / name)
        (partial / MANIFEST).replace(folder / MANIFEST)
        shutil.rmtree(partial)


def _begin(partial: Path, fingerprint: str) -> dict[str, int]:
    """Rows of each split that are safely on the disk; the folder is emptied if they come from another source."""
    try:
        journal = read_json(partial / JOURNAL)
        if journal["fingerprint"] == fingerprint:
            return {split: int(count) for split, count in journal["rows"].items()}
    except (HarnessError, KeyError, TypeError, ValueError, AttributeError):
        pass  # no journal, or a damaged one: start again
    with disk_errors(partial):
        for file in partial.iterdir():
            if file.name != LOCK:
                file.unlink()
    return {}


def _write_split(
    partial: Path, split: str, part: SplitSource, dataset: DatasetInfo, rows: dict[str, int], fingerprint: str, show: Progress
) -> None:
    forms = split_files(dataset, split, 0)
    with contextlib.ExitStack() as stack:
        with disk_errors(partial):
            files = [stack.enter_context(_opened(partial / name)) for name in forms]
            starts = [_header(file, dtype, shape) for file, (dtype, shape) in zip(files, forms.values(), strict=True)]
            widths = [np.dtype(dtype).itemsize * int(np.prod(shape[1:])) for dtype, shape in forms.values()]
            stored = [(os.fstat(file.fileno()).st_size - start) // width for file, start, width in zip(files, starts, widths, strict=True)]
            done = min(rows.get(split, 0), *stored)
            for file, start, width in zip(files, starts, widths, strict=True):
                file.truncate(start + done * width)
                file.seek(0, os.SEEK_END)
        show(split, done, max(done, part.count))
        for images, labels in stack.enter_context(contextlib.closing(part.chunks(done))):
            arrays = [images]
            if labels is not None:
                check_labels(dataset, labels, f"{dataset.name}, {split}", AGAIN)
                arrays.append(labels)
            with disk_errors(partial):
                for file, array in zip(files, arrays, strict=True):
                    _write(file, array)
                    os.fsync(file.fileno())
                done += len(images)
                rows[split] = done
                write_json(partial / JOURNAL, {"fingerprint": fingerprint, "rows": rows})
            show(split, done, max(done, part.count))
        rows[split] = done
        with disk_errors(partial):
            for file, (dtype, shape) in zip(files, forms.values(), strict=True):
                _header(file, dtype, (done, *shape[1:]))
                os.fsync(file.fileno())


def _shared_images(partial: Path, dataset: DatasetInfo, source: Source) -> dict[str, int]:
    """How many held-out images are training images too, pixel by pixel. Raises HarnessError if more than half of them are."""
    if not {"train", "heldout"} <= source.splits.keys():
        return {}
    train, heldout = (np.load(partial / f"{split}.npy", mmap_mode="r") for split in ("train", "heldout"))
    known = {_row_digest(row) for row in heldout}
    seen = {digest for digest in map(_row_digest, train) if digest in known}
    shared = sum(_row_digest(row) in seen for row in heldout)
    if 2 * shared > len(heldout):
        count, expected = f"{shared:,} of {len(heldout):,} held-out images are training images", "images that are not trained on"
        raise HarnessError("the held-out part is not held out", where=dataset.name, found=count, expected=expected)
    return {"heldout_in_train": shared}


def _row_digest(row: np.ndarray) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _opened(path: Path) -> BinaryIO:
    path.touch()
    return path.open("r+b", buffering=0)  # no buffer that could fail again while closing


def _write(file: BinaryIO, array: np.ndarray) -> None:
    rest = np.ascontiguousarray(array).reshape(-1).data.cast("B")
    while rest:
        rest = rest[file.write(rest) :]


def _header(file: BinaryIO, dtype: type, shape: tuple[int, ...]) -> int:
    """Writes the .npy header and returns its length, which NumPy pads so that it is the same for any number of rows."""
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
    return file.tell()


def _sums(partial: Path, split: str, dataset: DatasetInfo, count: int) -> dict[str, dict[str, Any]]:
    paths = [partial / name for name in split_files(dataset, split, count)]
    return {path.name: {"bytes": path.stat().st_size, "sha256": checksum(path), "sampled": sampled_checksum(path)} for path in paths}
