"""LMDB databases, read in a process of their own: liblmdb ends the process when certain bytes of a file are damaged.

`python lmdb_reader.py FOLDER` is that process. It answers each line on its standard input, `keys` or a key in hexadecimal, with frames: the
number of bytes as eight bytes, then the bytes. An empty frame ends a list of keys.
"""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import lmdb

LENGTH = struct.Struct("<Q")
FAILED = 3
"""Exit code for a file that is not an LMDB, with the reason on standard error."""


class Unreadable(Exception):
    """The database cannot be read; the message says why."""


@dataclass(frozen=True)
class Database:
    """A database that is open, read-only, in another process. One caller at a time; its methods raise Unreadable."""

    process: subprocess.Popen[bytes]

    def keys(self) -> list[bytes]:
        """All keys, in their order."""
        self._ask("keys")
        keys = []
        while key := self._frame():
            keys.append(key)
        return keys

    def value(self, key: bytes) -> bytes:
        """The value of a key, b"" if there is none."""
        self._ask(key.hex())
        return self._frame()

    def _ask(self, line: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{line}\n".encode())
            self.process.stdin.flush()
        except OSError:
            self._fail()

    def _frame(self) -> bytes:
        (size,) = LENGTH.unpack(self._read(LENGTH.size))
        return self._read(size)

    def _read(self, size: int) -> bytes:
        assert self.process.stdout is not None
        data = self.process.stdout.read(size)
        if len(data) < size:
            self._fail()
        return data

    def _fail(self) -> None:
        assert self.process.stderr is not None
        reason = self.process.stderr.read().decode(errors="replace").strip()
        code = self.process.wait()
        raise Unreadable(reason if code == FAILED else f"reading it ended the process with code {code}")


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Database]:
    """The database in a folder, until the end of the block."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, __file__, str(folder)], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        try:
            yield Database(process)
        finally:
            process.kill()
            with contextlib.suppress(OSError):  # what a dead process has not read
                process.stdin.close()


def serve(folder: Path, questions: BinaryIO, answers: BinaryIO) -> None:
    """Answers until the questions end. Raises OSError for a truncated file, beyond whose end a read would be a bus error."""
    with lmdb.open(str(folder), readonly=True, lock=False, readahead=False, create=False) as database:
        size, expected = (folder / "data.mdb").stat().st_size, (database.info()["last_pgno"] + 1) * database.stat()["psize"]
        if size < expected:
            raise OSError(f"{size} bytes instead of {expected}")
        with database.begin(buffers=False) as view:
            for question in questions:
                keys = view.cursor().iternext(keys=True, values=False)
                frames = [*map(bytes, keys), b""] if question == b"keys\n" else [bytes(view.get(bytes.fromhex(question.decode()), b""))]
                for frame in frames:
                    answers.write(LENGTH.pack(len(frame)) + frame)
                answers.flush()


if __name__ == "__main__":
    try:
        serve(Path(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
    except (lmdb.Error, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(FAILED)
