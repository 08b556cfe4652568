"""What the speed profiles say in words: whether faster arithmetic changes any metric of a model by more than its training seeds do.

Each profile is compared with fp32 in every metric of the final samples, paired by training seed, with Holm's correction over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.config.parts import coupling_label
from harness.config.run import Run
from harness.config.speed import FP32
from harness.data.catalogue import main_metric
from harness.reporting.cells import Cell, ExperimentCells
from harness.reporting.tables import signed
from harness.reporting.values import COVERAGE, METRICS, QUALITY, CellValues
from harness.stats.differences import Difference, equivalent, holm, paired, seeds_needed, seeds_text
from harness.stats.intervals import ALPHA

MARGIN = 0.05
"""A change of the main metric by less than 5 % of its value in fp32 is none."""


@dataclass(frozen=True)
class Comparison:
    """A metric of one model: a profile less fp32, over training seeds."""

    model: str
    profile: str
    metric: str
    difference: Difference


def profile_of(run: Run) -> str:
    """The settings of a run's training that differ from fp32's, in words; "fp32" for none."""
    values = {name: getattr(run.train, name) for name in FP32}
    names = {"precision": str(values["precision"]), "channels_last": "channels last", "compile": "compiled"}
    return " ".join(names[name] for name in names if values[name] != FP32[name]) or "fp32"


def comparisons(cells: Sequence[Cell], cell_values: CellValues) -> Iterator[Comparison]:
    """Every metric of every model and profile that has a training seed in common with the same model in fp32."""
    exact = {cell.slug: cell for cell in cells if profile_of(cell.run) == "fp32"}
    metrics = [metric for metric in (*QUALITY, *COVERAGE) if metric in cell_values.metrics(cells)]
    for cell in cells:
        base = exact.get(cell.slug)
        if base is None or cell is base:
            continue
        for metric in metrics:
            column = cell_values.column([base, cell], metric)
            if difference := paired(column.by_seed(cell.key), column.by_seed(base.key)):
                yield Comparison(coupling_label(cell.run.coupling), profile_of(cell.run), metric, difference)


def speed_findings(experiment: ExperimentCells, cell_values: CellValues) -> list[str]:
    """Notes below the table: for each profile, the main metric of each model against fp32, and whether any metric differs."""
    notes = []
    for data in experiment.data:
        found = list(comparisons(experiment.of(data), cell_values))
        for profile in dict.fromkeys(comparison.profile for comparison in found):
            notes.append(_of_profile([comparison for comparison in found if comparison.profile == profile], main_metric(data)))
    return notes


def _of_profile(found: Sequence[Comparison], main: str) -> str:
    tested = [comparison for comparison in found if comparison.difference.p is not None]
    title = METRICS[main].title
    own = "; ".join(f"{comparison.model} {_main_text(comparison.difference)}" for comparison in found if comparison.metric == main)
    answer = f"{found[0].profile} against fp32, {title} of each model, paired by training seed: {own}. "
    if not tested:
        return answer + "No test: one seed"
    adjusted = holm([comparison.difference.p for comparison in tested if comparison.difference.p is not None])
    metrics = ", ".join(METRICS[metric].title for metric in dict.fromkeys(comparison.metric for comparison in tested))
    differ = [f"{c.model} {METRICS[c.metric].title} (p = {p:.2g})" for c, p in zip(tested, adjusted, strict=True) if p < ALPHA]
    count = f"of {len(tested)} comparisons ({metrics})"
    if differ:
        return f"{answer}{len(differ)} {count} differ by Holm at {ALPHA:.0%}: {', '.join(differ)}"
    return f"{answer}None {count} differs by Holm at {ALPHA:.0%}; the smallest corrected p is {min(adjusted):.2g}"


def _main_text(difference: Difference) -> str:
    """A difference in per cent of the value in fp32, and what it shows."""
    base = _base(difference)
    if base is None or difference.low is None or difference.high is None or difference.p is None:
        return f"{difference.mean:+.3g} ({'one seed' if difference.one_seed else f'{difference.n} seeds'})"
    low, high = 100 * difference.low / base, 100 * difference.high / base
    text = f"{signed(100 * difference.mean / base, '.1f')} % [{signed(low, '.1f')}, {signed(high, '.1f')}], {difference.n} seeds"
    if equivalent(difference, MARGIN * base):
        return f"{text}, equal within {MARGIN:.0%}"
    if difference.p < ALPHA:
        return f"{text}, different before the correction"
    needed = seeds_text(seeds_needed(difference, MARGIN * base))
    return f"{text}, neither equal within {MARGIN:.0%} nor different (a difference of that size needs {needed})"


def _base(difference: Difference) -> float | None:
    """The mean absolute value in fp32; None where it is not known."""
    if not difference.relative or not math.isfinite(difference.relative):
        return None
    return abs(difference.mean / difference.relative)
