"""Files that are complete or absent: atomic writes, exclusive creation, appended JSON lines, on local and shared file systems."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from harness.errors import DamagedFile, HarnessError, MissingFile
from harness.locations import read_regular

_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


@contextlib.contextmanager
def disk_errors(path: Path, doing: str = "write") -> Iterator[None]:
    """Turns an OSError of the block into a HarnessError with path and cause, MissingFile if a file or folder is absent."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingFile(f"cannot {doing}: {error.strerror}", where=path) from error
    except OSError as error:
        cause = error.strerror or str(error)
        full = {errno.ENOSPC: "free some space", errno.EDQUOT: "free some of your quota"}
        advice = full.get(error.errno or 0, "check the path and its permissions") + ", then start again"
        raise HarnessError(f"cannot {doing}: {cause}", where=path, nearest=advice) from error


@contextlib.contextmanager
def atomic_file(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` when the block ends without an error, complete or not at all.

    durable: wait until file and folder are on the disk (fsync), so that a power cut leaves the old or the new file. Raises HarnessError on
    a full or unwritable disk.
    """
    with disk_errors(path):
        with _temporary(path) as temporary:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.replace(path)
        if durable:
            _sync_folder(path.parent)


def write_atomic(path: Path, data: bytes | memoryview, durable: bool = True) -> None:
    """Writes `data` to `path`, completely or not at all. Raises HarnessError (path and cause) on a full or unwritable disk."""
    with atomic_file(path, durable) as file:
        file.write(data)


def write_json(path: Path, value: Mapping[str, Any], durable: bool = True) -> None:
    """`write_atomic` of indented JSON."""
    write_atomic(path, encode(value), durable)


def encode(value: Mapping[str, Any]) -> bytes:
    """Indented JSON that ends with a newline."""
    return (json.dumps(value, indent=1) + "\n").encode()


def create_new(path: Path, data: bytes) -> bool:
    """Creates `path` with `data` unless it exists; True for the one process that created it, also among several machines.

    A hard link makes name and content appear together; without hard links, O_EXCL decides and the content follows.
    """
    with disk_errors(path):
        with _temporary(path) as temporary:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            created = _link(temporary, path, data)
        if created:
            _sync_folder(path.parent)
        return created


def _link(temporary: Path, path: Path, data: bytes) -> bool:
    try:
        os.link(temporary, path)
        return True
    except FileExistsError:
        # NFS may lose the answer to a successful link; then both names are one file.
        return temporary.stat().st_nlink == 2
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    try:
        with path.open("xb") as file:
            file.write(data)
        return True
    except FileExistsError:
        return False


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises MissingFile or DamagedFile, which name the file, or HarnessError if it cannot be read."""
    with disk_errors(path, "read"):
        text = read_regular(path)
    value = parse_object(text)
    if value is None:
        raise DamagedFile("damaged file", where=path, found=_excerpt(text), expected="one JSON object")
    return value


def append_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Appends rows as JSON lines in one write and syncs. An incomplete last line of an earlier crash is cut off first.

    Raises HarnessError if the disk is full; the file is then as before.
    """
    if not rows:
        return
    data = encode_lines(rows)
    with disk_errors(path), path.open("a+b", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        file.seek(0)
        text = file.read()
        last = text[text.rfind(b"\n") + 1 :]
        size = len(text)
        if parse_object(last) is not None:  # it lacks only its newline, because no strict prefix of a JSON object is one
            data = b"\n" + data
        else:
            size -= len(last)
            file.truncate(size)
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def encode_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as JSON lines, each with a newline."""
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows).encode()


def lines_in(text: bytes) -> int:
    """The number of complete JSON lines, damaged ones included."""
    return text.count(b"\n") + (parse_object(text[text.rfind(b"\n") + 1 :]) is not None)


def read_lines(path: Path, on_damage: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, [] if there is none. An incomplete last line is left out silently.

    Any other damaged line raises DamagedFile (file and line), or is reported to `on_damage` and left out.
    """
    with disk_errors(path, "read"):
        return parse_lines(read_regular(path), path, on_damage) if path.exists() else []


def parse_lines(text: bytes, path: Path, on_damage: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """The rows of JSON lines, as `read_lines` returns them. path: the file that messages name."""
    *lines, last = text.split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        row = parse_object(line)
        if row is not None:
            rows.append(row)
        elif line.strip():
            error = DamagedFile("damaged line", where=f"{path}:{number}", found=_excerpt(line), expected="one JSON object per line")
            if on_damage is None:
                raise error
            on_damage(f"{error.what} {error.details['where']}: {error.details['found']}")
    complete = parse_object(last)
    return rows if complete is None else [*rows, complete]


def parse_written_lines(text: bytes, path: Path, on_damage: Callable[[str], None]) -> list[dict[str, Any]]:
    """`parse_lines` for a file that is known to be as the harness wrote it: all lines at once, which takes half of the time.

    Where they are not one JSON object each, they are parsed one by one.
    """
    lines = [line for line in text.split(b"\n") if line]
    with contextlib.suppress(ValueError, RecursionError):
        rows = json.loads(b"[" + b",".join(lines) + b"]")
        if len(rows) == len(lines) and all(type(row) is dict for row in rows) and not _HALF_PAIR.search(text):
            return rows
    return parse_lines(text, path, on_damage)


def parse_object(text: bytes) -> dict[str, Any] | None:
    """The JSON object in a text; None for anything else, as for one that is nested too deep or holds what is no text."""
    try:
        value = json.loads(text)
        if _HALF_PAIR.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # half of a pair of surrogates cannot be written anywhere
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _excerpt(text: bytes) -> str:
    shown = text[:60].decode("utf-8", "replace")
    return repr(shown + ("..." if len(text) > 60 else "")) if text else "an empty file"


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A new name in the same folder, removed at the end."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
