"""What the longer runs say in words: which setting of the default length hides GC's advantage over IC, if any does.

The advantage is the ratio of the main metric of GC to that of IC, compared by training seed on its logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.config.curriculum import stage_length
from harness.config.parts import ConsistencyTraining
from harness.config.run import Run
from harness.data.catalogue import main_metric
from harness.reporting.cells import Cell, ExperimentCells
from harness.reporting.values import METRICS, CellValues
from harness.stats.differences import Difference, equivalent, holm, paired, seeds_needed, seeds_text
from harness.stats.intervals import ALPHA

GC = "gc-0.5"
MARGIN = math.log(1.05)
"""A setting that changes the ratio by less than 5 % does not hide anything."""
VISIBLE = math.log(1.1)
"""For the number of seeds that an undecided comparison needs: a change of the ratio by 10 %."""
PRESET, EMA, STAGE, BOTH, LONG = "preset", "EMA rate", "length of a stage", "both", "long"
"""The settings: as in Table 1; weights averaged over more steps; fewer discretization steps n1, so longer stages; both; more steps."""


@dataclass(frozen=True)
class Setting:
    """One setting of the experiment: its models by slug, the logarithms of their values by slug and seed, and ln(GC / IC) by seed."""

    name: str
    cells: Mapping[str, Cell]
    logs: Mapping[str, Mapping[int, float]]
    log_ratios: Mapping[int, float]
    ratio: Difference | None
    """ln(GC / IC) over seeds; None without a common seed."""

    @property
    def run(self) -> Run:
        return next(iter(self.cells.values())).run


def settings(cells: Sequence[Cell], cell_values: CellValues) -> dict[str, Setting]:
    """The settings of one data set that were declared, by name; the first cell is of the preset."""
    base = cells[0].run
    groups: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        run = cell.run
        slow, coarse = run.ema.rate > base.ema.rate, _n1(run) < _n1(base)
        name = LONG if run.train.steps > base.train.steps else BOTH if slow and coarse else EMA if slow else STAGE if coarse else PRESET
        groups.setdefault(name, {})[cell.slug] = cell
    by_name = {}
    for name, models in groups.items():
        column = cell_values.column(list(models.values()), main_metric(cells[0].data))
        logs = {slug: _logs(column.by_seed(models[slug].key)) if slug in models else {} for slug in (GC, "ic")}
        common = {seed: logs[GC][seed] - logs["ic"][seed] for seed in sorted(logs[GC].keys() & logs["ic"].keys())}
        by_name[name] = Setting(name, models, logs, common, paired(logs[GC], logs["ic"]))
    return by_name


def _n1(run: Run) -> int:
    assert isinstance(run.objective, ConsistencyTraining), "the experiment trains with the iCT recipe"
    return run.objective.n1


def _logs(values: Mapping[int, float]) -> dict[int, float]:
    return {seed: math.log(value) for seed, value in values.items() if value > 0}


def stage_ends(run: Run) -> list[tuple[int, int]]:
    """The stages of the discretization: (last step, N) of each; N doubles after each but the last."""
    law = run.objective
    assert isinstance(law, ConsistencyTraining)
    length, n = stage_length(run.train.steps, law.n0, law.n1), law.n0
    ends: list[tuple[int, int]] = []
    while n < law.n1 and (len(ends) + 1) * length < run.train.steps:
        ends.append(((len(ends) + 1) * length, n))
        n = min(2 * n, law.n1)
    return [*ends, (run.train.steps, n)]


def longer_findings(experiment: ExperimentCells, cell_values: CellValues) -> list[str]:
    """Notes below the table: what hides the effect, with the ratios behind the answer. Empty without a common seed of IC and GC."""
    return [note for data in experiment.data for note in _of_data(experiment.of(data), cell_values)]


def _of_data(cells: Sequence[Cell], cell_values: CellValues) -> list[str]:
    by_name = settings(cells, cell_values)
    title = METRICS[main_metric(cells[0].data)].title
    ratios = [f"{described(setting)}: {ratio_text(setting.ratio)}" for setting in by_name.values() if setting.ratio]
    if not ratios:
        return []
    notes = [f"{title} of iCT-GC over that of iCT-IC, by training seed (geometric mean, [95 % interval]): {'; '.join(ratios)}"]
    names = [name for name in (EMA, STAGE, BOTH) if {name, PRESET} <= by_name.keys()]
    changes = {name: paired(by_name[name].log_ratios, by_name[PRESET].log_ratios) for name in names}
    if any(changes.values()):
        notes.append(hidden_by(changes))
        notes.append(f"{title} of each model over its own at the preset: {'; '.join(_own_changes(by_name, names))}")
    return notes


def _own_changes(by_name: Mapping[str, Setting], names: Sequence[str]) -> list[str]:
    """How each setting changes the models themselves, since a ratio also falls where IC gets worse."""
    texts = []
    for name in names:
        pairs = {label: paired(by_name[name].logs[slug], by_name[PRESET].logs[slug]) for slug, label in (("ic", "iCT-IC"), (GC, "iCT-GC"))}
        if own := [f"{label} {ratio_text(change)}" for label, change in pairs.items() if change]:
            texts.append(f"{name}: {', '.join(own)}")
    return texts


def described(setting: Setting) -> str:
    """A setting as the reader knows it: "2,400 steps, EMA rate 0.998, n1=160"."""
    run = setting.run
    return f"{run.train.steps:,} steps, EMA rate {run.ema.rate:g}, n1={_n1(run)}"


def ratio_text(log_ratio: Difference) -> str:
    """A ratio, from the difference of logarithms."""
    text = f"{math.exp(log_ratio.mean):.2f}"
    if log_ratio.low is None or log_ratio.high is None or log_ratio.p is None:
        return f"{text} (one seed)" if log_ratio.one_seed else f"{text} ({log_ratio.n} seeds, no test)"
    return f"{text} [{math.exp(log_ratio.low):.2f}, {math.exp(log_ratio.high):.2f}], p = {log_ratio.p:.2g}, {log_ratio.n} seeds"


def hidden_by(changes: Mapping[str, Difference | None]) -> str:
    """Which setting hides the effect at the default length, with the change of the ratio GC / IC by each. changes: see `cause`."""
    tests, adjusted = _tests(changes)
    words = []
    for name, change in tests.items():
        by_holm, decided = f" ({adjusted[name]:.2g} by Holm)" if name in adjusted else "", adjusted.get(name, 1.0) < ALPHA
        needed = "" if change.p is None or decided or equivalent(change, MARGIN) else seeds_text(seeds_needed(change, VISIBLE))
        words.append(f"{name}: ratio times {ratio_text(change)}{by_holm}{needed and f', a change of 10 % needs {needed}'}")
    return f"what hides GC's advantage at the default length: {cause(changes)}. Change of the ratio by each: {'; '.join(words)}"


def cause(changes: Mapping[str, Difference | None]) -> str:
    """The answer in words, from the change of ln(GC / IC) by each of EMA, STAGE and BOTH; negative where GC gains, None where not run.

    A setting hides the effect if GC gains with it, by a paired t test with Holm's correction over the settings. It does not if its change
    is shown to lie within the margin or to be a loss.
    """
    tests, adjusted = _tests(changes)
    gains = [name for name in tests if adjusted.get(name, 1.0) < ALPHA and tests[name].mean < 0]
    none = [name for name in tests if name not in gains and (adjusted.get(name, 1.0) < ALPHA or equivalent(tests[name], MARGIN))]
    alone = [name for name in (EMA, STAGE) if name in gains]
    if len(alone) == 2:
        return "both: the EMA rate and the length of a stage, each alone"
    if alone:
        other = EMA if alone == [STAGE] else STAGE
        rest = "does not" if other in none else "is inconclusive" if other in tests else "was not run"
        return f"the {alone[0]}; the {other} {rest}"
    if BOTH in gains:
        return "the EMA rate and the length of a stage together, and not shown for either alone"
    if set(none) == {EMA, STAGE, BOTH}:
        return "neither the EMA rate nor the length of a stage"
    seeds = max(change.n for change in tests.values())
    return f"inconclusive ({'one seed' if seeds == 1 else f'{seeds} seeds'})"


def _tests(changes: Mapping[str, Difference | None]) -> tuple[dict[str, Difference], dict[str, float]]:
    """The changes that were run, and their p values by Holm where there is a test."""
    tests = {name: change for name, change in changes.items() if change is not None}
    p_values = {name: change.p for name, change in tests.items() if change.p is not None}
    return tests, dict(zip(p_values, holm(list(p_values.values())), strict=True))
