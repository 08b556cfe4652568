"""By which code a finished run was made: today's, other code, or code that is not known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.store import fingerprint
from harness.store.git import commit_exists, unavailable

OF_BASELINES = ("core", "data", "metrics")
"""The parts of the code on which baselines depend."""


@dataclass(frozen=True)
class MadeBy:
    """How the code of a run compares with today's."""

    differing: tuple[str, ...] = ()
    """The parts that differ in at least one start of the run (harness.store.fingerprint.PARTS)."""
    unknown: str = ""
    """Why the code of a start is not known; "" if it is."""
    equal: bool | None = None
    """Whether the run had equal records when `harness verify` trained it again with today's code; None if it was not."""

    @property
    def other(self) -> bool:
        """Whether the code differs from today's, or is not known, and nobody has verified that the results are equal."""
        return bool(self.differing or self.unknown) and not self.equal

    @property
    def note(self) -> str:
        """The comparison in words, "" for today's code."""
        if not (self.differing or self.unknown):
            return ""
        verified = {None: "", True: ", verified equal", False: ", verified NOT equal"}[self.equal]
        return f"by {self.code}{verified}"

    @property
    def code(self) -> str:
        """other code (core, metrics differ), or why it is not known."""
        if self.differing:
            return f"other code ({', '.join(self.differing)} differ{'s' * (len(self.differing) == 1)})"
        return f"unknown code ({self.unknown})"


TODAYS = MadeBy()
"""Made by today's code."""


def made_by(attempts: Sequence[Mapping[str, Any]], parts: Iterable[str] = tuple(fingerprint.PARTS), equal: bool | None = None) -> MadeBy:
    """Compares the code of all starts of a run with today's. parts: those on which it depends. equal: what `harness verify` found.

    A start of an earlier version of the harness has no fingerprint; its code is that of its commit, if nothing was uncommitted.
    """
    today = fingerprint.parts()
    differing: set[str] = set()
    unknown = "" if attempts else "no start is recorded"
    for attempt in attempts:
        code = parts_of(attempt)
        if code is None:
            unknown = unknown or why_unknown(attempt)
        else:
            differing |= {*fingerprint.differing(code, today)} & {*parts}
    return MadeBy(tuple(part for part in fingerprint.PARTS if part in differing), unknown, equal)


def parts_of(attempt: Mapping[str, Any]) -> Mapping[str, str] | None:
    """The fingerprint of each part of the code of a start, None if it is not known."""
    parts, commit = attempt.get("parts"), attempt.get("commit")
    if isinstance(parts, Mapping):
        return parts
    return fingerprint.parts_of_commit(commit) if isinstance(commit, str) and not attempt.get("dirty") else None


def why_unknown(attempt: Mapping[str, Any]) -> str:
    """Why the code of a start without fingerprint is not known."""
    commit = attempt.get("commit")
    if not isinstance(commit, str):
        return "no commit is recorded"
    if attempt.get("dirty"):
        return f"uncommitted changes on commit {commit[:7]}"
    if reason := unavailable():
        return f"commit {commit[:7]}; {reason}"
    return f"commit {commit[:7]} has no such code" if commit_exists(commit) else f"commit {commit[:7]} is not in this repository"


def summarised(runs: Iterable[MadeBy]) -> str:
    """One line about the runs that today's code did not make, the most frequent code first; "" if there are none."""
    others = [run for run in runs if run.note]
    texts = []
    for code, count in Counter(run.code for run in others).most_common():
        of_code = [run for run in others if run.code == code]
        text = f"{count} run{'s' * (count != 1)} by {code}"
        if checked := [run.equal for run in of_code if run.equal is not None]:
            text += f", verified equal on {sum(checked)} of {count}"
            text += f", NOT equal on {len(checked) - sum(checked)}" if not all(checked) else ""
        texts.append(text)
    return "; ".join(texts)
