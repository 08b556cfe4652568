"""Who watches a training while it runs: a choice of a command, not part of a run's identity. No torch.

The choice reaches every job that the command starts through an environment variable.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.config.trust import trust
from harness.errors import HarnessError, MissingFile, nearest, printable, unknown
from harness.locations import read_regular, user_path

VARIABLE = "HARNESS_LOG"
"""Environment variable with the watchers, as JSON."""
KNOWN = ("tensorboard", "wandb")
MOST_CODE = 16 << 20


@dataclass(frozen=True)
class Choice:
    """One watcher: a name of KNOWN, or the class `name` of a file, by the hash that it had when the command was given."""

    name: str
    path: str = ""
    sha256: str = ""


def choose_watchers(texts: Sequence[str]) -> None:
    """Sets the watchers for this process and those that it starts. texts: tensorboard, wandb, or FILE.py:CLASS, whose code is trusted.

    Raises HarnessError for an unknown name, a package that is not installed, a missing file, and one without that class.
    """
    chosen = [_choice(text) for text in dict.fromkeys(texts)]
    for choice in chosen:
        if choice.sha256:
            trust(choice.sha256)
    os.environ[VARIABLE] = json.dumps([[choice.name, choice.path, choice.sha256] for choice in chosen])


def chosen_watchers() -> list[Choice]:
    """The watchers of this process. Raises HarnessError for a value of the variable that `choose_watchers` did not write."""
    text = os.environ.get(VARIABLE, "")
    try:
        rows: list[Any] = json.loads(text) if text else []
        return [Choice(*map(str, row)) for row in rows]
    except (TypeError, ValueError) as error:
        raise HarnessError("not a list of watchers", where=VARIABLE, found=printable(text, 60), expected="what --log sets") from error


def _choice(text: str) -> Choice:
    if text in KNOWN:
        if importlib.util.find_spec(text) is None:
            raise HarnessError(f"{text} is not installed", where="--log", nearest=f"pip install 'consistency-harness[{text}]'")
        return Choice(text)
    file, sign, name = text.rpartition(":")
    if not sign or not file.endswith(".py") or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        expected = f"{', '.join(KNOWN)}, or FILE.py:CLASS"
        raise HarnessError("unknown watcher", where="--log", found=printable(text, 60), expected=expected, nearest=nearest(text, KNOWN))
    path = user_path(file, "--log")
    if not path.is_file():
        raise MissingFile("no such file", where="--log", found=file, expected="a Python file with the class")
    try:
        content = read_regular(path, MOST_CODE)
        classes = [node.name for node in ast.parse(content).body if isinstance(node, ast.ClassDef)]
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise HarnessError("the file of a watcher cannot be read as Python", where=path, found=error) from error
    if name not in classes:
        raise unknown("class", name, classes or ["(none)"], where=path)
    return Choice(name, str(path), hashlib.sha256(content).hexdigest())
