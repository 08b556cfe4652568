"""A class of one's own in a Python file, named on the command line as FILE.py:CLASS: found without running the file, trusted by its hash,
and executed only as it was when it was named. No torch."""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.config.trust import is_trusted, trust
from harness.errors import HarnessError, MissingFile, nearest, printable, unknown
from harness.locations import read_regular, user_path

MOST_CODE = 16 << 20
"""Bytes of such a file."""
FEATURE_NETWORKS = ("inception", "dinov2", "clip")
"""What --features takes besides a class of one's own."""


@dataclass(frozen=True)
class Named:
    """One of the known names, or the class `name` of a file, with the hash that the file had when it was named."""

    name: str
    path: str = ""
    sha256: str = ""


def named(text: str, known: Sequence[str], where: str) -> Named:
    """What a text of the command line names; the code of a file is trusted from then on.

    where: the option. Raises HarnessError for an unknown name, a missing file, and one that does not parse or has no such class.
    """
    if text in known:
        return Named(text)
    file, sign, name = text.rpartition(":")
    if not sign or not file.endswith(".py") or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        expected = f"{', '.join(known)}, or FILE.py:CLASS"
        raise HarnessError("unknown name", where=where, found=printable(text, 60), expected=expected, nearest=nearest(text, known))
    path = user_path(file, where)
    if not path.is_file():
        raise MissingFile("no such file", where=where, found=file, expected="a Python file with the class")
    try:
        content = read_regular(path, MOST_CODE)
        classes = [node.name for node in ast.parse(content).body if isinstance(node, ast.ClassDef)]
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise HarnessError("this file cannot be read as Python", where=path, found=error) from error
    if name not in classes:
        raise unknown("class", name, classes or ["(none)"], where=path)
    digest = hashlib.sha256(content).hexdigest()
    trust(digest)
    return Named(name, str(path), digest)


def load(own: Named) -> Callable[..., Any]:
    """Runs the file and returns its class. Raises HarnessError for a file that is missing, was edited since it was named, is not trusted or
    cannot be executed."""
    where = f"{own.path}:{own.name}"
    try:
        content = read_regular(Path(own.path), MOST_CODE)
    except OSError as error:
        raise HarnessError("this file cannot be read", where=where, found=error.strerror) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != own.sha256:
        raise HarnessError("this file was edited after it was named", where=where, found=digest[:12], expected=own.sha256[:12])
    if not is_trusted(digest):
        raise HarnessError("the code of this file is not trusted", where=where, found=f"SHA-256 {digest[:12]}", expected="name it again")
    try:
        module = executed(content, own.path, f"own_{digest[:12]}")
    except (Exception, SystemExit) as error:
        cause = f"{type(error).__name__}: {error}"
        raise HarnessError("this file cannot be executed", where=where, found=cause) from error
    own_class: Callable[..., Any] = getattr(module, own.name)
    return own_class


def executed(content: bytes, path: str, name: str) -> ModuleType:
    """The module that this source code makes, exactly the bytes that were hashed. Raises whatever the code raises.

    path: for tracebacks. name: under which the module is registered, since dataclasses look their module up.
    """
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module
    exec(compile(content, path, "exec", dont_inherit=True), vars(module))
    return module
