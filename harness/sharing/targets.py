"""Where an export goes: a file or folder that appears complete or not at all, and replaces nothing unless asked to."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from harness.errors import HarnessError
from harness.locations import may_write
from harness.store.files import disk_errors

MANIFEST = "export.json"
"""The file by which an exported folder is known; it says what the folder was made from."""


def check_target(path: Path, where: str, overwrite: bool, folder: bool = False) -> None:
    """Raises HarnessError, before anything is computed, if an export cannot be written there.

    A target that exists is refused without `overwrite`; with it, a folder is replaced only if it is empty or an earlier export. where: the
    option that names it. folder: whether a folder is to be written, else a file.
    """
    parent = path.parent
    if not parent.is_dir():
        raise HarnessError("the folder of the target does not exist", where=where, found=parent, nearest=f"mkdir -p {parent}")
    if not may_write(parent):
        raise HarnessError("no permission to write there", where=where, found=parent, expected="a folder that you may write")
    if not (path.exists() or path.is_symlink()):
        return
    if not overwrite:
        raise HarnessError("the target exists", where=where, found=path, expected="a new name", nearest="--overwrite, which replaces it")
    if path.is_dir() != folder or path.is_symlink():
        kind, wanted = ("folder", "file") if path.is_dir() else ("file", "folder")
        raise HarnessError(f"the target is a {kind}, and a {wanted} is to be written", where=where, found=path, expected="another name")
    if folder and any(path.iterdir()) and not (path / MANIFEST).is_file():
        expected = f"an earlier export, with {MANIFEST}, or an empty folder"
        raise HarnessError("only an earlier export is replaced", where=where, found=path, expected=expected)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` that takes its name when the block ends without an error, and is removed otherwise.

    An earlier folder of that name is removed once the new one is in its place. Raises HarnessError on a full or unwritable disk.
    """
    token = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary, old = (path.with_name(f".{path.name}.{token}.{end}") for end in ("tmp", "old"))
    with disk_errors(path):
        try:
            temporary.mkdir()
            yield temporary
            replaces = path.is_dir()
            if replaces:
                path.rename(old)
            try:
                temporary.rename(path)
            except OSError:
                if replaces:
                    old.rename(path)
                raise
            if replaces:
                shutil.rmtree(old)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
