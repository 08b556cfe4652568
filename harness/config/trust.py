"""Whose code may run: the file of a user's coupling is executed only if the person at this command line named or trusted it.

A run folder states which file its coupling comes from, and it may come from somebody else. Files named by --coupling are trusted, by their
hash, for this command and the processes that it starts; `--trust` trusts those of the run that is named.
"""

from __future__ import annotations

import os

VARIABLE = "HARNESS_TRUST"
"""Environment variable with the SHA-256 of trusted files, separated by commas; * trusts every file. Launchers pass it to jobs."""
EVERY = "*"
WORKS = "the coupling works"
"""What the trial of a coupling in a process of its own prints at its end; a coupling may end that process with code 0."""


def trust(sha256: str) -> None:
    """Trusts a file, in this process and those that it starts."""
    os.environ[VARIABLE] = ",".join(sorted({*_trusted(), sha256}))


def is_trusted(sha256: str) -> bool:
    """Whether a file with this hash may be executed."""
    return bool({sha256, EVERY} & _trusted())


def _trusted() -> set[str]:
    return {entry for entry in os.environ.get(VARIABLE, "").split(",") if entry}
