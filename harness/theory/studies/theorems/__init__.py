"""The study `theory`: every theoretical statement of the paper, measured and compared with exact values.

It covers Gaussian data and mixtures, the training sets of the runs as empirical distributions, and the networks of the runs (IC and GC of
Table 1). --t sets the levels of the closed forms and of Lemma 1.
"""

from __future__ import annotations

from functools import partial

from harness.store.measurements import MeasurementRow
from harness.theory.studies.common import StudyContext, StudyPart, measure_parts
from harness.theory.studies.theorems import closed_forms, lemma1, oracle_checks, theorem1, theorem2
from harness.theory.studies.theorems.subjects import load_subjects


def measure(context: StudyContext) -> list[MeasurementRow]:
    """All rows. Raises HarnessError for runs that are not done or have labels, and for data that do not fit into memory."""
    return measure_parts(parts(context), context)


def parts(context: StudyContext) -> list[StudyPart]:
    """The parts of the study, those of laws with known formulas first."""
    data_sets = load_subjects(context)
    known = [
        StudyPart("closed forms", partial(closed_forms.measure, context)),
        StudyPart("Theorem 1, closed forms", partial(theorem1.known, context)),
        StudyPart("Theorem 2, laws with a density", partial(theorem2.known, context)),
        StudyPart("Lemma 1, laws with a density", partial(lemma1.known, context)),
    ]
    modules = {"oracle": oracle_checks, "Theorem 1": theorem1, "Theorem 2": theorem2, "Lemma 1": lemma1}
    return known + [
        StudyPart(f"{subject.name}: {title}", partial(module.measure, context, subject))
        for subject in data_sets
        for title, module in modules.items()
    ]
