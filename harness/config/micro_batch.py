"""How many rows go through the networks at once: a choice for a machine, not part of a run's identity. No torch.

The choice of a command reaches every job that it starts through an environment variable.
"""

from __future__ import annotations

import os

from harness.errors import HarnessError

VARIABLE = "HARNESS_MICRO_BATCH"


def choose_rows(rows: int) -> None:
    """Sets the choice for this process and those that it starts. Raises HarnessError for 0."""
    if not rows:
        raise HarnessError("no rows", where="--micro-batch", found=rows, expected="1 or more")
    os.environ[VARIABLE] = str(rows)


def chosen_rows() -> int | None:
    """The chosen number; None for the complete batch. Raises HarnessError for what is not a positive number."""
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or not int(text):
        raise HarnessError("not a number of rows", where=VARIABLE, found=text[:60], expected="1 or more")
    return int(text)
