"""Errors for bad input. Code that reacts to one catches its kind, a subclass of HarnessError; it never reads the message."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

LONGEST = 2000
"""Characters of a text from outside that a message shows."""
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """The text with control characters, which a terminal would obey, direction marks and lone surrogates as escapes. Tabs and line breaks
    stay."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def printable(text: object, longest: int = LONGEST) -> str:
    """A text from a file, a config or a file name that is safe to print: `visible`, and cut after `longest` characters."""
    shown = visible(str(text))
    return shown if len(shown) <= longest else f"{shown[:longest]}... ({len(shown):,} characters)"


class HarnessError(Exception):
    """Bad input or an unusable environment; the command line prints the message without a traceback and exits with 2.

    what: one sentence. where: the key, file or folder. found / expected: the value found and the value expected. nearest: the closest
    valid choice, or the command that fixes the problem.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: object = None, found: object = None, expected: object = None, nearest: object = None) -> None:
        self.what = what
        parts = {"where": where, "found": found, "expected": expected, "nearest": nearest}
        self.details = {key: str(value) for key, value in parts.items() if value is not None}
        super().__init__(what)

    def __str__(self) -> str:
        return "\n".join([printable(self.what), *(f"  {key + ':':<10}{printable(value)}" for key, value in self.details.items())])


class UnknownName(HarnessError):
    """A name is none of the valid choices."""


class UnknownKey(HarnessError):
    """A config has no key of this name."""


class MissingFile(HarnessError):
    """A file or folder does not exist."""


class DamagedFile(HarnessError):
    """A file exists but its content cannot be used."""


class ConfigMismatch(HarnessError):
    """Stored results belong to another config than the one asked for."""


FOREIGN = (
    *(HarnessError, OSError, EOFError, ValueError, TypeError, LookupError),
    *(AttributeError, ArithmeticError, RecursionError, MemoryError),
)
"""What reading a file may raise that is damaged or that another program wrote. One such file among many is left out and named."""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most similar to `name`, or None if none is similar."""
    return next(iter(difflib.get_close_matches(str(name), map(str, choices), n=1, cutoff=0.5)), None)


def unknown(kind: str, name: str, choices: Iterable[str], where: object = None) -> UnknownName:
    """The error for a `kind` of thing whose name is none of `choices`."""
    choices = list(choices)
    expected = "one of " + ", ".join(choices)
    return UnknownName(f"unknown {kind} {name!r}", where=where, found=name, expected=expected, nearest=nearest(name, choices))
