"""CIFAR-10's "python version": cifar-10-python.tar.gz, or its folder of pickled batches (https://www.cs.toronto.edu/~kriz/cifar.html)."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
from collections.abc import Generator
from pathlib import Path, PurePosixPath
from typing import Self

from harness.data.catalogue import DatasetInfo
from harness.data.prepare import batch_pickle
from harness.data.prepare.source import AGAIN, Chunk, Source, SplitSource, as_is, check_rows, damaged, listing, not_found, reading, skip
from harness.errors import HarnessError

PUBLISHED_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
MOST_BYTES = 64 << 20
"""A batch of 10,000 images has 31 MB."""
MOST_NAME = 64 << 10
"""Bytes of the name of a file in an archive."""
_IN_MEMORY = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_BATCHES = {"train": tuple(f"data_batch_{k}" for k in range(1, 6)), "heldout": ("test_batch",)}


def read(path: Path, dataset: DatasetInfo, recipe: str | None, official: bool) -> Source:
    """The five training batches and the test batch. official: each has the published MD5 sum."""
    sizes = _sizes(path)
    batches = [name for names in _BATCHES.values() for name in names]
    if missing := [name for name in batches if name not in sizes]:
        raise not_found(dataset, path, "no " + ", ".join(missing), searched=path.is_file())
    published = PUBLISHED_MD5 if official else {}

    def split(names: tuple[str, ...]) -> SplitSource:
        def chunks(start: int) -> Generator[Chunk]:
            return skip((_batch(path, name, dataset, published.get(name)) for name in names), start)

        return SplitSource(sum(sizes[name] for name in names) // (dataset.dim + 1), chunks, exact=False)

    splits = {name: split(names) for name, names in _BATCHES.items()}
    return Source(splits, listing(sorted((name, sizes[name]) for name in batches)), as_is(dataset, recipe))


def _sizes(path: Path) -> dict[str, int]:
    """Batch name -> bytes, in a folder or an archive. Raises HarnessError, before it is read, for a file larger than any batch."""
    sizes = {}
    with contextlib.ExitStack() as stack:
        if path.is_dir():
            files = ((file.name, file.stat().st_size) for file in _folder(path).iterdir() if file.is_file())
        else:
            stack.enter_context(reading(path, "cifar-10-python.tar.gz"))
            archive = stack.enter_context(_archive(path))
            files = ((PurePosixPath(member.name).name, member.size) for member in archive if member.isfile())
        for name, size in files:
            if size > MOST_BYTES:
                raise damaged(f"{path}, {name}", f"{size:,} bytes", f"at most {MOST_BYTES:,} bytes")
            sizes[name] = size
    return sizes


class _Member(tarfile.TarInfo):
    """A header of a tar archive. Those that carry a long name or further fields are read into memory as a whole."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """As tarfile. Raises ReadError for such a header of more than MOST_NAME bytes."""
        member = super().frombuf(buf, encoding, errors)
        if member.type in _IN_MEMORY and member.size > MOST_NAME:
            raise tarfile.ReadError(f"a name of {member.size:,} bytes")
        return member


def _archive(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, tarinfo=_Member)
    except tarfile.ReadError:  # its text lists every compression that was tried
        raise tarfile.ReadError("no tar archive, or one whose beginning is damaged") from None


def _folder(path: Path) -> Path:
    return path / "cifar-10-batches-py" if (path / "cifar-10-batches-py").is_dir() else path


def _bytes(path: Path, name: str) -> bytes:
    if path.is_dir():
        return (_folder(path) / name).read_bytes()
    with _archive(path) as archive:
        member = next(member for member in archive if member.isfile() and PurePosixPath(member.name).name == name)
        content = archive.extractfile(member)
        return content.read() if content else b""


def _batch(path: Path, name: str, dataset: DatasetInfo, published: str | None) -> Chunk:
    where = f"{path}, {name}"
    with reading(where):
        raw = _bytes(path, name)
    if published is not None and (md5 := hashlib.md5(raw, usedforsecurity=False).hexdigest()) != published:
        raise HarnessError("not the published batch", where=where, found=f"MD5 {md5}", expected=f"MD5 {published}", nearest=AGAIN)
    batch = batch_pickle.load(io.BytesIO(raw), where)
    return check_rows(where, batch.get("data"), batch.get("labels"), dataset)
