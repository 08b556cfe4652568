"""The account of this process. A user id without an entry in the password file, as in containers, has neither name nor home folder."""

from __future__ import annotations

import contextlib
import getpass
import os
import tempfile
from pathlib import Path


def user_name() -> str:
    """The name of the user, for provenance alone; "user 12345" for an account without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"user {os.getuid()}" if hasattr(os, "getuid") else "unknown"


def complete_environment() -> None:
    """Gives an account without name or home folder the variables that libraries ask for: torch.compile stops without a user name, and
    matplotlib without a home folder for its caches. What is set stays."""
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["LOGNAME"] = f"user-{os.getuid()}"
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(_own_folder())


def _own_folder() -> Path:
    """A folder for caches that belongs to this user alone, the same for all processes; a new one if somebody else has its name."""
    folder = Path(tempfile.gettempdir()) / f"harness-home-{os.getuid()}"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
        if folder.is_dir() and not folder.is_symlink() and facts.st_uid == os.getuid() and not facts.st_mode & 0o022:
            return folder
    return Path(tempfile.mkdtemp(prefix="harness-home-"))
