"""The longer runs: what hides GC's advantage, from records whose answer is known; the stages of the schedule; the figure."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from report_support import make_run, records

from harness.config.curriculum import grid_points
from harness.config.experiments import expand
from harness.config.run import Run
from harness.config.selection import Selection
from harness.reporting import drawing, load
from harness.reporting.cells import experiment_cells
from harness.reporting.experiment_table import experiment_table
from harness.reporting.figures_longer import longer_figures
from harness.reporting.findings_longer import BOTH, EMA, STAGE, cause, hidden_by, settings, stage_ends
from harness.reporting.values import CellValues
from harness.stats.differences import Difference, paired

FACTORS = {"preset": 1.0, EMA: 1.0, STAGE: 1.0, BOTH: 1.0, "long": 0.7}


def setting_of(run: Run, base: Run) -> str:
    if run.train.steps > base.train.steps:
        return "long"
    slow, coarse = run.ema.rate > base.ema.rate, run.objective.n1 < base.objective.n1
    return {(False, False): "preset", (True, False): EMA, (False, True): STAGE, (True, True): BOTH}[slow, coarse]


def make_longer(root: Path, factors: dict[str, float], seeds: int = 3, noise: float = 0.01) -> None:
    """Runs of the experiment at the toy scale; the final W2 of GC is `factors` times that of IC of the same seed, but for the noise."""
    runs = expand("longer", "toy", range(seeds))
    rng = np.random.default_rng(0)
    for run in runs:
        name = setting_of(run, runs[0])
        value = 0.2 * (1 + 0.1 * run.seed) * (0.8 if run.coupling.kind == "batch-ot" else 1.0)
        if run.coupling.kind == "gc":
            value *= factors[name] * math.exp(noise * rng.standard_normal())
        rows = [row | {"value": value} if row["final"] and row["metric"] == "w2" else row for row in records(run)]
        make_run(root, run, rows=rows)


def answer(root: Path) -> str:
    """The note on what hides the effect."""
    loaded = load.read(root)
    notes = experiment_table(experiment_cells(Selection("longer", "toy"), loaded), CellValues(loaded)).notes
    (note,) = (note for note in notes if note.startswith("what hides"))
    return note.partition("length: ")[2].partition(". Change")[0]


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ({EMA: 0.7, BOTH: 0.7}, "the EMA rate; the length of a stage does not"),
        ({STAGE: 0.7, BOTH: 0.7}, "the length of a stage; the EMA rate does not"),
        ({EMA: 0.8, STAGE: 0.8, BOTH: 0.6}, "both: the EMA rate and the length of a stage, each alone"),
        ({BOTH: 0.7}, "the EMA rate and the length of a stage together, and not shown for either alone"),
        ({}, "neither the EMA rate nor the length of a stage"),
        ({EMA: 1.4, STAGE: 1.4, BOTH: 1.4}, "neither the EMA rate nor the length of a stage"),
    ],
)
def test_what_hides_the_effect_is_found(gains, expected):
    rng = np.random.default_rng(0)
    ratios = {
        name: {seed: math.log(factor) + 0.005 * rng.standard_normal() for seed in range(3)} for name, factor in (FACTORS | gains).items()
    }
    assert cause({name: paired(ratios[name], ratios["preset"]) for name in (EMA, STAGE, BOTH)}) == expected


def test_the_answer_is_a_note_of_the_table(tmp_path):
    make_longer(tmp_path, FACTORS | {EMA: 0.7, BOTH: 0.7}, noise=0.005)
    assert answer(tmp_path) == "the EMA rate; the length of a stage does not"


def test_what_noise_hides_is_inconclusive(tmp_path):
    make_longer(tmp_path, FACTORS | {EMA: 0.9}, noise=0.3)
    assert answer(tmp_path) == "inconclusive (3 seeds)"


def test_a_setting_that_was_not_run_is_not_judged():
    change = paired({0: -0.5, 1: -0.52, 2: -0.49}, {0: 0.0, 1: 0.0, 2: 0.0})
    assert cause({EMA: None, STAGE: change, BOTH: None}) == "the length of a stage; the EMA rate was not run"
    assert "EMA rate: ratio" not in hidden_by({EMA: None, STAGE: change, BOTH: None})


def test_one_seed_tells_nothing(tmp_path):
    make_longer(tmp_path, FACTORS | {EMA: 0.5, STAGE: 0.5, BOTH: 0.5}, seeds=1)
    assert answer(tmp_path) == "inconclusive (one seed)"


def test_settings_that_were_not_run_are_no_answer(tmp_path):
    runs = expand("longer", "toy", [0, 1, 2])
    for run in runs:
        if setting_of(run, runs[0]) == "preset":
            make_run(tmp_path, run)
    loaded = load.read(tmp_path)
    notes = experiment_table(experiment_cells(Selection("longer", "toy"), loaded), CellValues(loaded)).notes
    assert not [note for note in notes if note.startswith("what hides")]
    assert [note for note in notes if note.startswith("W2 of iCT-GC over that of iCT-IC")]


def test_under_noise_alone_a_cause_is_rarely_found():
    """Three seeds without any effect: Holm keeps the rate of any cause at 5 %."""
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(400):
        base = dict(enumerate(0.1 * rng.standard_normal(3)))
        changes = {name: paired(dict(enumerate(0.1 * rng.standard_normal(3))), base) for name in (EMA, STAGE, BOTH)}
        wrong += not cause(changes).startswith(("inconclusive", "neither"))
    assert wrong / 400 < 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


def test_an_undecided_comparison_names_the_seeds_it_needs():
    base = {0: 0.0, 1: 0.0, 2: 0.0}
    change = paired({0: -0.2, 1: 0.1, 2: -0.05}, base)
    text = hidden_by({EMA: change, STAGE: change, BOTH: change})
    assert re.findall(r"needs (\d+) seeds", text) and "3 seeds" in text


def test_a_comparison_without_a_test_has_no_p_value():
    text = hidden_by({EMA: Difference(-0.1, 1), STAGE: None, BOTH: None})
    assert "inconclusive (one seed)" in text and "p =" not in text


@pytest.mark.parametrize("scale", ["toy", "digits", "paper"])
def test_stages_end_where_the_grid_grows(scale):
    for run in expand("longer", scale, [0]):
        ends, law = stage_ends(run), run.objective
        assert ends[-1] == (run.train.steps, grid_points(run.train.steps - 1, run.train.steps, law.n0, law.n1) - 1)
        for step, n in ends[:-1]:
            before, after = (grid_points(k, run.train.steps, law.n0, law.n1) - 1 for k in (step - 1, step))
            assert before == n < after
        assert len(ends) == len({n for _, n in ends})


def test_ratios_pair_the_seeds(tmp_path):
    factors = {"preset": 1.1, EMA: 0.9, STAGE: 0.8, BOTH: 0.7, "long": 0.6}
    make_longer(tmp_path, factors, noise=0.0)
    loaded = load.read(tmp_path)
    by_name = settings(experiment_cells(Selection("longer", "toy"), loaded).cells, CellValues(loaded))
    assert {name: math.exp(setting.ratio.mean) for name, setting in by_name.items()} == pytest.approx(factors)


def test_the_figure_holds_curves_and_ratios(tmp_path):
    make_longer(tmp_path, FACTORS | {EMA: 0.8}, noise=0.05)
    loaded = load.read(tmp_path)
    cells = experiment_cells(Selection("longer", "toy"), loaded)
    (figure,) = longer_figures([cells], CellValues(loaded))
    assert figure.name == "longer-toy"
    curves, ratios = (figure.data[figure.data.panel == panel] for panel in ("training", "ratio"))
    assert set(curves.key.map(lambda key: key.split()[0])) == {"ic", "ot", "gc-0.5"} and curves.step.max() == 16_000
    means = ratios[ratios.seed.isna()]
    assert len(means) == 5 and (means.low < means.value).all() and (means.value < means.high).all()
    assert len(ratios) == 5 * 4
    drawing.save(figure, tmp_path / "figures")
    picture = np.asarray(Image.open(tmp_path / "figures" / "longer-toy.png").convert("L"))
    assert picture.std() > 5 and (np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]]) == 255).all()
    assert len(pd.read_csv(tmp_path / "figures" / "longer-toy.csv")) == len(figure.data)


def test_without_long_runs_there_is_no_figure(tmp_path):
    runs = expand("longer", "toy", [0])
    make_run(tmp_path, runs[0])
    loaded = load.read(tmp_path)
    assert longer_figures([experiment_cells(Selection("longer", "toy"), loaded)], CellValues(loaded)) == []
