"""What the runs on data with a rare class say in words: is the class dropped, does it fall behind IC during training, does it come back?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from harness.config.parts import GeneratorAugmented
from harness.data.catalogue import info
from harness.reporting.cells import Cell, ExperimentCells
from harness.reporting.values import CellValues, Value
from harness.statistics.differences import Difference, holm, paired
from harness.statistics.intervals import ALPHA

METRIC = "rare_share"
DROPPED = 0.1
"""A class with less than this part of its share counts as dropped, as for `classes_missing`."""


@dataclass(frozen=True)
class RareAnswer:
    """A GC model beside IC, by training seed, in units of the share that the class has in the data.

    end: GC - IC at the last step. deficit: GC - IC at the step at which GC falls behind IC most, which is chosen for each seed on the other
    seeds (on itself if it is alone), so that the choice does not exaggerate the deficit. recovery: by how much the deficit is smaller at
    the end. steps: the first and last of the chosen steps. None without a common seed, or without values over training.
    """

    label: str
    end: Difference | None
    deficit: Difference | None = None
    recovery: Difference | None = None
    steps: tuple[int, int] = (0, 0)


def answer(label: str, gc: pd.DataFrame, ic: pd.DataFrame, end: Difference | None) -> RareAnswer:
    """The answer for one GC model; gc and ic: values by step (rows) and seed (columns), the last step last."""
    behind = (gc - ic).dropna(axis=1, how="all").dropna(axis=0)
    if behind.empty:
        return RareAnswer(label, end)
    lowest: dict[int, int] = {}
    for seed in behind.columns:
        others = behind.drop(columns=seed) if len(behind.columns) > 1 else behind
        lowest[seed] = int(others.mean(axis=1).idxmin())
    at_lowest = {seed: float(behind.loc[step, seed]) for seed, step in lowest.items()}
    at_end = {seed: float(behind[seed].iloc[-1]) for seed in behind.columns}
    values = [{seed: float(frame.loc[step, seed]) for seed, step in lowest.items()} for frame in (gc, ic)]
    return RareAnswer(label, end, paired(*values), paired(at_end, at_lowest), (min(lowest.values()), max(lowest.values())))


def rare_findings(experiment: ExperimentCells, cell_values: CellValues) -> list[str]:
    """Notes below the table: the answer in plain words, the comparisons behind it, and the binomial error. None without values."""
    return [note for data in experiment.data for note in _of_data(experiment.of(data), data, cell_values)]


def _of_data(cells: Sequence[Cell], data: str, cell_values: CellValues) -> list[str]:
    column, rare = cell_values.column(cells, METRIC), info(data).rare
    measured = [cell for cell in cells if cell.key in column.cells]
    if not measured or rare is None:
        return []
    answers = []
    independent = next((cell for cell in measured if cell.key == "ic"), None)
    for cell in measured:
        if independent and isinstance(cell.run.coupling, GeneratorAugmented):
            gc, ic = (cell_values.curves(model, METRIC) for model in (cell, independent))
            answers.append(answer(cell.label, gc, ic, paired(column.by_seed(cell.key), column.by_seed("ic"))))
    values = {cell.label: column.cells[cell.key] for cell in measured}
    return [_dropped(values), *described(answers), *_errors(values, rare.share)]


def _dropped(values: Mapping[str, Value]) -> str:
    """Which models have dropped the class at the last step."""
    ends = {label: value.interval for label, value in values.items()}
    dropped = [label for label, end in ends.items() if (end.mean if end.high is None else end.high) < DROPPED]
    kept = [label for label, end in ends.items() if (end.mean if end.low is None else end.low) >= DROPPED]
    open_ = [label for label in ends if label not in (*dropped, *kept)]
    parts = [
        f"dropped by {_listed(dropped) if dropped else 'no model'}",
        *([f"kept by {_listed(kept)}"] if kept else []),
        *([f"not clear for {_listed(open_)}"] if open_ else []),
    ]
    return f"the rare class at the last step, where less than {DROPPED:g} of its share counts as dropped: {'; '.join(parts)}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def described(answers: Sequence[RareAnswer]) -> list[str]:
    """Each answer in words. p values are adjusted by Holm over all tests of the answers."""
    tests = [test for each in answers for test in (each.end, each.deficit, each.recovery) if test and test.p is not None]
    adjusted = {id(test): p for test, p in zip(tests, holm([test.p for test in tests if test.p is not None]), strict=True)}

    def significant(test: Difference | None, sign: int) -> bool:
        return test is not None and adjusted.get(id(test), 1.0) < ALPHA and test.mean * sign > 0

    def text(test: Difference) -> str:
        interval = "" if test.low is None else f" [{test.low:+.2f}, {test.high:+.2f}]"
        p = adjusted.get(id(test))
        return f"{test.mean:+.2f}{interval}, {'one seed: not tested' if p is None else f'p = {p:.2g}, {test.n} seeds'}"

    notes = []
    for each in answers:
        if each.end is None:
            continue
        if each.end.p is None:
            verdict = "not tested"
        else:
            less, more = significant(each.end, -1), significant(each.end, 1)
            verdict = "less often than iCT-IC" if less else "more often than iCT-IC" if more else "not separable from iCT-IC"
        note = f"{each.label}: at the last step it generates the class {verdict} ({text(each.end)})"
        if each.deficit and each.recovery:
            first, last = each.steps
            when = f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"
            if significant(each.deficit, -1):
                back = "it comes back" if significant(each.recovery, 1) else "it is not shown to come back"
                note += f"; it falls behind iCT-IC most at {when} ({text(each.deficit)}), and {back} ({text(each.recovery)})"
            else:
                note += f"; at no step is it separably behind iCT-IC (most at {when}: {text(each.deficit)}), so nothing has to come back"
        notes.append(note)
    if tests:
        notes.append(f"differences of shares, by training seed (paired t test), p by Holm over {len(tests)} tests")
    return notes


def _errors(values: Mapping[str, Value], share: float) -> list[str]:
    """The binomial error of a model that generates the class in its true share, and the one measured between evaluations."""
    samples = {value.samples for value in values.values() if value.samples}
    noise = [value.noise for value in values.values() if value.noise is not None]
    if len(samples) != 1:
        return []
    n = samples.pop()
    binomial = ((1 - share) / (share * n)) ** 0.5
    measured = f"; measured between evaluations: {min(noise):.2g} to {max(noise):.2g}" if noise else ""
    return [f"{n:,} samples are expected to hold {share * n:.0f} of the rare class: binomial error {binomial:.2f} of its share{measured}"]
