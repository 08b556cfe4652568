"""Git commands in the checkout that holds the code: read-only, and None instead of an exception where git cannot answer."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from harness.locations import PACKAGE

CHECKOUT = PACKAGE.parent
"""The folder that is a git checkout unless the harness was installed as a package or unpacked from an archive."""
NOT_INSTALLED = "git is not installed"
TO_ALLOW = "; to allow it: "
"""What stands in a reason before the command that makes git answer."""


def git(*arguments: str, root: Path = CHECKOUT) -> bytes | None:
    """The output of a git command in `root`; None if it fails, and where `unavailable` gives a reason."""
    return None if unavailable(root) else _run(root, *arguments)[0]


@cache
def unavailable(root: Path = CHECKOUT) -> str:
    """Why git says nothing about `root`: it is no checkout, git is not installed, or git refuses the folder. "" where git answers."""
    if not (root / ".git").exists():  # an installed package may lie inside the checkout of another project
        return f"{root} is not a git checkout"
    output, words = _run(root, "rev-parse", "--git-dir")
    if output is not None:
        return ""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    fix = next((line for line in lines if line.startswith("git config")), "")
    reason = lines[0].removeprefix("fatal: ") if lines else "git fails"
    return f"{reason}{TO_ALLOW if fix else ''}{fix}"


def _run(root: Path, *arguments: str) -> tuple[bytes | None, str]:
    """The output of a git command, None if it fails, and what it prints to stderr or why it cannot be started."""
    try:
        ended = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, timeout=60)
    except FileNotFoundError:
        return None, NOT_INSTALLED
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"git cannot be started: {error}"
    return ended.stdout if ended.returncode == 0 else None, ended.stderr.decode("utf-8", "replace")


@cache
def commit_exists(commit: str, root: Path = CHECKOUT) -> bool:
    """Whether the checkout's repository has this commit."""
    return git("cat-file", "-e", f"{commit}^{{commit}}", root=root) is not None


def file_of_commit(commit: str, path: str, root: Path = CHECKOUT) -> bytes | None:
    """The content of a file, by its path in the repository, as it was in a commit; None if there is no such commit or file."""
    return git("show", f"{commit}:{path}", root=root)
