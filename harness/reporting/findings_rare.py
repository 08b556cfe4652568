"""What the runs on data with a rare class say in words: is the class dropped, does it fall behind IC during training, does it come back?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from harness.config.parts import GeneratorAugmented
from harness.data.catalogue import info
from harness.reporting.cells import Cell, ExperimentCells
from harness.reporting.tables import signed
from harness.reporting.values import CellValues, Value
from harness.stats.differences import Difference, holm, paired
from harness.stats.intervals import ALPHA

METRIC = "rare_share"
DROPPED = 0.1
"""A class with less than this part of its share counts as dropped, as for `classes_missing`."""


@dataclass(frozen=True)
class RareAnswer:
    """A GC model minus IC, by training seed, in units of the share that the class has in the data.

    end: at the last step. middle: mean over the middle half of the training. recovery: mean over its last quarter less `middle`. The parts
    are fixed beforehand: the step of the largest deficit, chosen by its value, would show a deficit under noise alone. None without a
    common seed, or without values over training.
    """

    label: str
    end: Difference | None
    middle: Difference | None = None
    recovery: Difference | None = None


def answer(label: str, gc: pd.DataFrame, ic: pd.DataFrame, end: Difference | None) -> RareAnswer:
    """The answer for one GC model; gc and ic: values by step (rows) and seed (columns), the last step last."""
    gc, ic = gc.align(ic, join="inner")
    steps = gc.index.to_numpy()
    if not gc.size:
        return RareAnswer(label, end)
    share = steps / steps[-1]
    parts = [(share > 0.25) & (share <= 0.75), share > 0.75]
    means = [[{seed: float(values) for seed, values in frame[part].mean().items()} for frame in (gc, ic)] for part in parts]
    behind, late = ({seed: left[seed] - right[seed] for seed in left} for left, right in means)
    return RareAnswer(label, end, paired(*means[0]), paired(late, behind))


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
            gc, ic = (cell_values.finished_curves(model, METRIC) for model in (cell, independent))
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
    numbers = sorted({end.n for end in ends.values()})
    seeds = "one seed, so no interval" if numbers == [1] else f"{' to '.join(map(str, dict.fromkeys([numbers[0], numbers[-1]])))} seeds"
    return f"the rare class at the last step ({seeds}), where less than {DROPPED:g} of its share counts as dropped: {'; '.join(parts)}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def described(answers: Sequence[RareAnswer]) -> list[str]:
    """Each answer in words. p values are adjusted by Holm over all tests of the answers."""
    tests = [test for each in answers for test in (each.end, each.middle, each.recovery) if test and test.p is not None]
    adjusted = {id(test): p for test, p in zip(tests, holm([test.p for test in tests if test.p is not None]), strict=True)}

    def sign(test: Difference | None) -> int:
        """-1 or 1 for a significant difference, else 0."""
        return 0 if test is None or adjusted.get(id(test), 1.0) >= ALPHA else 1 if test.mean > 0 else -1

    def text(test: Difference) -> str:
        interval = "" if test.low is None or test.high is None else f" [{signed(test.low, '.2f')}, {signed(test.high, '.2f')}]"
        if test.p is None:
            return f"{signed(test.mean, '.2f')}, {'one seed' if test.one_seed else f'{test.n} equal differences'}: not tested"
        return f"{signed(test.mean, '.2f')}{interval}, p = {adjusted[id(test)]:.2g}, {test.n} seeds"

    ends = {-1: "generated less often", 0: "inconclusive", 1: "generated more often"}
    middles = {-1: "behind", 0: "inconclusive", 1: "ahead"}
    changes = {-1: "falls further behind", 0: "inconclusive", 1: "comes back"}
    notes = []
    for each in answers:
        parts = [
            f"{where} {text(test)}{'' if test.p is None else f' ({words[sign(test)]})'}"
            for where, test, words in (
                ("at the last step", each.end, ends),
                ("over the middle half of the training", each.middle, middles),
                ("from there to the last quarter", each.recovery, changes),
            )
            if test
        ]
        notes += [f"rare class, {each.label} - iCT-IC: {'; '.join(parts)}"] if parts else []
    if tests:
        notes.append(f"rare class, differences by training seed: paired t tests, p by Holm over {len(tests)} tests")
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
