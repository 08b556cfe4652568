"""Who watches a training while it runs: a choice of a command, not part of a run's identity. No torch.

The choice reaches every job that the command starts through an environment variable.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from typing import Any

from harness.config.own_classes import Named, named
from harness.errors import HarnessError, printable

VARIABLE = "HARNESS_LOG"
"""Environment variable with the watchers, as JSON."""
KNOWN = ("tensorboard", "wandb")


def choose_watchers(texts: Sequence[str]) -> None:
    """Sets the watchers for this process and those that it starts. texts: tensorboard, wandb, or FILE.py:CLASS, whose code is trusted.

    Raises HarnessError as `named`, and for a package that is not installed.
    """
    chosen = [named(text, KNOWN, "--log") for text in dict.fromkeys(texts)]
    for choice in chosen:
        if not choice.path and importlib.util.find_spec(choice.name) is None:
            install = f"pip install 'consistency-harness[{choice.name}]'"
            raise HarnessError(f"{choice.name} is not installed", where="--log", nearest=install)
    os.environ[VARIABLE] = json.dumps([[choice.name, choice.path, choice.sha256] for choice in chosen])


def chosen_watchers() -> list[Named]:
    """The watchers of this process. Raises HarnessError for a value of the variable that `choose_watchers` did not write."""
    text = os.environ.get(VARIABLE, "")
    try:
        rows: list[Any] = json.loads(text) if text else []
        return [Named(*map(str, row)) for row in rows]
    except (TypeError, ValueError) as error:
        raise HarnessError("not a list of watchers", where=VARIABLE, found=printable(text, 60), expected="what --log sets") from error
