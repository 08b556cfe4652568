"""LMDB databases, read in a process of their own: liblmdb ends the process when certain bytes of a file are damaged."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import lmdb

from harness.errors import DamagedFile

Result = TypeVar("Result")
_views: dict[str, lmdb.Transaction] = {}
"""The database that this process has open, by its folder."""


@dataclass(frozen=True)
class Database:
    """A database that is open, read-only, in another process. Its methods raise DamagedFile if the file is damaged."""

    folder: Path
    process: ProcessPoolExecutor

    def keys(self) -> list[bytes]:
        """All keys, in their order."""
        return self._call(_keys)

    def value(self, key: bytes) -> bytes:
        """The value of a key, b"" if there is none."""
        return self._call(_value, key)

    def _call(self, function: Callable[..., Result], *arguments: object) -> Result:
        file, again = self.folder / "data.mdb", "download it again"
        try:
            return self.process.submit(function, str(self.folder), *arguments).result()
        except BrokenProcessPool:
            cause = "reading it ended the process"
            raise DamagedFile("damaged database", where=file, found=cause, expected="an undamaged LMDB file", nearest=again) from None
        except (lmdb.Error, OSError) as error:
            raise DamagedFile("damaged database", where=file, found=error, expected="an LMDB file", nearest=again) from None


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Database]:
    """The database in a folder, until the end of the block."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        yield Database(folder, process)


def _keys(folder: str) -> list[bytes]:
    return [bytes(key) for key in _view(folder).cursor().iternext(keys=True, values=False)]


def _value(folder: str, key: bytes) -> bytes:
    return bytes(_view(folder).get(key, b""))


def _view(folder: str) -> lmdb.Transaction:
    """A read-only view of the database. Raises OSError for a truncated file, beyond whose end a read would be a bus error."""
    if folder not in _views:
        database = lmdb.open(folder, readonly=True, lock=False, readahead=False, create=False)
        size, expected = (Path(folder) / "data.mdb").stat().st_size, (database.info()["last_pgno"] + 1) * database.stat()["psize"]
        if size < expected:
            raise OSError(f"{size} bytes instead of {expected}")
        _views[folder] = database.begin(buffers=False)
    return _views[folder]
