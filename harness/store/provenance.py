"""Where a result comes from: code, versions, machine, command."""

from __future__ import annotations

import getpass
import hashlib
import os
import platform
import socket
import subprocess
import sys
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.locations import PACKAGE

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pot", "lion-pytorch", "clean-fid", "submitit")


def provenance(device: str) -> dict[str, Any]:
    """Plain JSON values: time, host, user, command, Python and package versions, commit, hash of uncommitted changes, device, job id,
    launcher (None without one)."""
    return {
        "time": time.time(),
        "host": socket.gethostname(),
        "user": getpass.getuser(),
        "pid": os.getpid(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": device,
        "job_id": os.environ.get("SLURM_JOB_ID"),
        "executor": os.environ.get("HARNESS_EXECUTOR"),
        "versions": {name: _version(name) for name in PACKAGES},
        **code(),
    }


@cache
def code(root: Path = PACKAGE.parent) -> dict[str, str | None]:
    """commit, and SHA-256 (12 hex digits) of uncommitted changes of the code; None for no changes and outside a git checkout."""
    if not (root / ".git").exists():  # an installed package may lie inside the checkout of another project
        return {"commit": None, "dirty": None}
    diff = _git(root, "diff", "HEAD", "--", "harness", "experiments")
    dirty = hashlib.sha256(diff.encode()).hexdigest()[:12] if diff else None
    return {"commit": _git(root, "rev-parse", "HEAD").strip() or None, "dirty": dirty}


def _git(root: Path, *arguments: str) -> str:
    """The output of a git command, "" if it fails."""
    try:
        return subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
