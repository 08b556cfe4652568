"""The folders of the project, its experiments, results and data sets, and the paths that a person names."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

from harness.errors import HarnessError

PACKAGE = Path(__file__).resolve().parent
MOST_BYTES = 2**30
"""Size of the largest file that is read as a whole. No record, config or source file is larger."""


def user_path(text: str | Path, where: str) -> Path:
    """The absolute path that a person named, with ~ expanded and links followed; there may be no such file yet.

    where: the option or variable that names it. Raises HarnessError for no path, as from a variable of the shell that is not set, for a
    path that no file can have (a name that is too long, bytes that are no text), an unknown ~user, a loop of links, and for one that may
    not be looked up.
    """
    if not str(text):
        raise HarnessError("no path is given", where=where, found="an empty text", expected="a path; . for the current folder")
    try:
        str(text).encode()
        path = Path(text).expanduser().resolve()
        with contextlib.suppress(FileNotFoundError):
            path.stat()
    except UnicodeEncodeError as error:
        raise HarnessError("this path is not valid text", where=where, found=text, expected="a name in UTF-8") from error
    except (OSError, RuntimeError, ValueError) as error:
        cause = f"{text} ({getattr(error, 'strerror', None) or error})"
        raise HarnessError("this path cannot be used", where=where, found=cause, expected="a file or folder that can be opened") from error
    return path


def user_folder(text: str | Path, where: str) -> Path:
    """`user_path` for a folder. Raises HarnessError also for what exists and is no folder, or a folder that may not be read."""
    path = user_path(text, where)
    if path.exists():
        if not path.is_dir():
            raise HarnessError("not a folder", where=where, found=path, expected="a folder, or a name that is still free")
        if not _allowed(path, os.R_OK | os.X_OK):
            raise HarnessError("no permission to read this folder", where=where, found=path, expected="a folder that you may read")
    return path


def open_regular(path: Path) -> BufferedReader:
    """A file, opened to read its bytes. Raises OSError also for what is no regular file: a pipe would wait and a device never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe that nobody writes to would wait here
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def read_regular(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file. Raises OSError as `open_regular`, and for a file of more than `most` bytes."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return file.read()


def may_write(folder: Path) -> bool:
    """Whether this process may create files in a folder; where there is none yet, in the nearest folder above it."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return existing.is_dir() and _allowed(existing, os.W_OK | os.X_OK)


def _allowed(path: Path, mode: int) -> bool:
    """os.access with the rights that this process has, where the system can tell: they may differ from those of its user."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def project_root() -> Path:
    """The current folder or the parent of the package, whichever has pyproject.toml and experiments/ first; else the current folder.

    Raises HarnessError if the current folder has been removed.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError:
        advice = "cd to a folder that exists, then start again"
        raise HarnessError("the current folder has been removed", where="the current folder", found="none", nearest=advice) from None
    for folder in (here, PACKAGE.parent):
        with contextlib.suppress(PermissionError):  # a folder that may not be entered is not the project's
            if (folder / "experiments").is_dir() and (folder / "pyproject.toml").is_file():
                return folder
    return here


def experiments_root() -> Path:
    """$HARNESS_EXPERIMENTS, else experiments/ of the project, else the experiments that were installed with the package."""
    if chosen := os.environ.get("HARNESS_EXPERIMENTS"):
        return user_folder(chosen, "$HARNESS_EXPERIMENTS")
    folder = project_root() / "experiments"
    return folder if folder.is_dir() else PACKAGE / "installed_experiments"


def results_root() -> Path:
    """$HARNESS_RESULTS, else results/ of the project. Raises HarnessError if the variable names no folder that can be read."""
    if chosen := os.environ.get("HARNESS_RESULTS"):
        return user_folder(chosen, "$HARNESS_RESULTS")
    return project_root() / "results"


def data_root(root: str | Path | None = None) -> Path:
    """`root`, else $HARNESS_DATA, else data/ of the project. Raises HarnessError if the variable names no folder that can be read."""
    if root:
        return Path(root)
    if chosen := os.environ.get("HARNESS_DATA"):
        return user_folder(chosen, "$HARNESS_DATA")
    return project_root() / "data"
