"""Answers in words to the question of an experiment, made from its values: notes below its table."""

from __future__ import annotations

from collections.abc import Callable

from harness.reporting.cells import ExperimentCells
from harness.reporting.findings_longer import longer_findings
from harness.reporting.findings_rare import rare_findings
from harness.reporting.findings_speed import speed_findings
from harness.reporting.values import CellValues

FINDINGS: dict[str, Callable[[ExperimentCells, CellValues], list[str]]] = {
    "longer": longer_findings,
    "rare_class": rare_findings,
    "speed_profiles": speed_findings,
}
"""By the name of the experiment."""


def findings(experiment: ExperimentCells, cell_values: CellValues) -> list[str]:
    """The answers of an experiment; none where it has no such question, or no values yet."""
    of_experiment = FINDINGS.get(experiment.name)
    return of_experiment(experiment, cell_values) if of_experiment else []
