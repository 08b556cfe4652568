"""theory: everything that the paper argues, measured beside the exact truth, part by part.

Rows of Gaussian data and mixtures come under data names of their own; those of a data set are about its training set as it is, and about
the networks that Table 1 trained on it with IC and GC. --t sets the levels of the closed forms and of Lemma 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from harness.theory.studies import theory_closed_forms, theory_lemma1, theory_oracle, theory_theorem1, theory_theorem2
from harness.theory.studies.common import Row, Setting, verdict
from harness.theory.studies.theory_subjects import subjects


def measure(setting: Setting) -> list[Row]:
    """All rows. Raises HarnessError for runs that are not done or have labels, and for data too large for the memory."""
    made: list[Row] = []
    start = time.monotonic()
    for title, part in _parts(setting):
        rows = part()
        made += rows
        differ = sum(verdict(found).startswith("DIFFERS") for found in rows)
        setting.tell(f"{time.monotonic() - start:6.1f} s  {title}: {len(rows)} numbers, {differ} differ from the truth")
    return made


def _parts(setting: Setting) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    found = subjects(setting)
    yield "closed forms", lambda: theory_closed_forms.measure(setting)
    yield "Theorem 1, closed forms", lambda: theory_theorem1.known(setting)
    yield "Theorem 2, laws with a density", lambda: theory_theorem2.known(setting)
    yield "Lemma 1, laws with a density", lambda: theory_lemma1.known(setting)
    for subject in found:
        yield f"{subject.name}: oracle", lambda subject=subject: theory_oracle.measure(setting, subject)
        yield f"{subject.name}: Theorem 1", lambda subject=subject: theory_theorem1.measure(setting, subject)
        yield f"{subject.name}: Theorem 2", lambda subject=subject: theory_theorem2.measure(setting, subject)
        yield f"{subject.name}: Lemma 1", lambda subject=subject: theory_lemma1.measure(setting, subject)
