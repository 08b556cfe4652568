"""Where a result comes from: code, experiment, versions, machine, command."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import socket
import sys
import time
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.errors import printable
from harness.locations import read_regular
from harness.store import fingerprint
from harness.store.account import user_name
from harness.store.files import parse_object
from harness.store.git import CHECKOUT, git, unavailable

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pot", "lion-pytorch", "clean-fid", "submitit")
EXPERIMENT = "HARNESS_EXPERIMENT"
"""The environment variable that tells a run's process which experiment asked for it."""


def provenance(device: str) -> dict[str, Any]:
    """Plain JSON values: time, host, user, command, Python and package versions, commit, hash of uncommitted changes, device, job id,
    launcher and experiment (None without one), the fingerprint of the code and of its parts (harness.store.fingerprint).

    Without a commit, `commit_unknown` says why.
    """
    state = code()
    return {
        "time": time.time(),
        "host": socket.gethostname(),
        "user": user_name(),
        "pid": os.getpid(),
        "command": printable(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]), 20_000),
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": device,
        "job_id": os.environ.get("SLURM_JOB_ID"),
        "executor": os.environ.get("HARNESS_EXECUTOR"),
        "versions": {name: _version(name) for name in PACKAGES},
        "experiment": _experiment(),
        **state,
        **({} if state["commit"] else {"commit_unknown": unavailable() or "the checkout has no commit"}),
        "fingerprint": fingerprint.current(),
        "parts": dict(fingerprint.parts()),
    }


@cache
def code(root: Path = CHECKOUT) -> dict[str, str | None]:
    """commit, and SHA-256 (12 hex digits) of what is not committed of the code; None for no changes, and both where git cannot answer.

    Uncommitted are changes of harness/ and experiments/, and new files in harness/.
    """
    commit = git("rev-parse", "HEAD", root=root)
    if commit is None:
        return {"commit": None, "dirty": None}
    changes = git("diff", "HEAD", "--", "harness", "experiments", root=root) or b""
    untracked = git("ls-files", "--others", "--exclude-standard", "-z", "--", "harness", root=root) or b""
    for name in filter(None, untracked.split(b"\0")):
        with contextlib.suppress(OSError):
            changes += b"\n" + name + b"\n" + read_regular(root / os.fsdecode(name))
    dirty = hashlib.sha256(changes).hexdigest()[:12] if changes else None
    return {"commit": commit.decode().strip(), "dirty": dirty}


@contextlib.contextmanager
def asking(path: Path | None) -> Iterator[None]:
    """Attempts that start in this block, also in child processes, name the experiment of this file; None for no experiment.

    They keep its name and the SHA-256 (12 hex digits) of its file.
    """
    before = os.environ.get(EXPERIMENT)
    if path is not None:
        with contextlib.suppress(OSError):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
            os.environ[EXPERIMENT] = json.dumps({"name": path.stem, "sha256": digest})
    try:
        yield
    finally:
        os.environ.pop(EXPERIMENT, None)
        if before is not None:
            os.environ[EXPERIMENT] = before


def _experiment() -> dict[str, str] | None:
    """The experiment that asked for the run, where the launcher knows it."""
    return parse_object(os.environ.get(EXPERIMENT, "").encode())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
