"""The one exception for bad input: a message a tired person can act on, and exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """Bad input or a bad environment, told once and clearly; the command line prints it without a traceback and exits with 2.

    what: one sentence. where: the key, file or folder. found / expected: what stands there and what should. nearest: the closest
    valid choice, or the command that mends it.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: object = None, found: object = None, expected: object = None, nearest: object = None) -> None:
        self.what = what
        parts = {"where": where, "found": found, "expected": expected, "nearest": nearest}
        self.details = {key: str(value) for key, value in parts.items() if value is not None}
        super().__init__(what)

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"  {key + ':':<10}{value}" for key, value in self.details.items())])

    def __reduce__(self):
        return _rebuild, (self.what, self.details)


def _rebuild(what: str, details: dict[str, str]) -> HarnessError:
    return HarnessError(what, **details)


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that looks most like `name`, or None when nothing does."""
    found = difflib.get_close_matches(str(name), [str(choice) for choice in choices], n=1, cutoff=0.5)
    return found[0] if found else None


def unknown(kind: str, name: str, choices: Iterable[str], where: object = None) -> HarnessError:
    """The error for a name that is none of `choices`."""
    choices = list(choices)
    expected = "one of " + ", ".join(choices)
    return HarnessError(f"unknown {kind} {name!r}", where=where, found=name, expected=expected, nearest=nearest(name, choices))
