"""How the report of a rehearsal or of a smoke test is labelled. No report mixes their runs with others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from harness.config.parts import SMOKE_TEST
from harness.config.run import Run

REHEARSAL = "REHEARSAL on stand-ins or with few steps, NOT A RESULT"
"""The set of records in words where it is one of a rehearsal."""


class OfRun(Protocol):
    """A loaded run."""

    @property
    def run(self) -> Run: ...


def smoke_text(entries: Iterable[OfRun]) -> str:
    """What is not real in the runs of a smoke test, in words; "" for a rehearsal of one run of each kind."""
    texts = {entry.run.rehearsal for entry in entries if entry.run.rehearsal}
    return next((text for text in sorted(texts) if text.startswith(SMOKE_TEST)), "")


def label(entries: Iterable[OfRun]) -> str:
    """The set of records in words, for captions."""
    text = smoke_text(entries)
    return f"{text}; NOT A RESULT" if text else REHEARSAL


def set_name(entries: Iterable[OfRun]) -> str:
    """The set of records in one word, for CSV files."""
    return SMOKE_TEST if smoke_text(entries) else "rehearsal"
