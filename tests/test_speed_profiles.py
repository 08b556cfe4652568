"""The speed profiles: which settings are compared, and what is said of records whose answer is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from report_support import make_run, records

from harness.config.experiments import expand
from harness.config.run import Run
from harness.config.selection import Selection
from harness.config.speed import FP32, fast_settings
from harness.reporting import load
from harness.reporting.cells import experiment_cells
from harness.reporting.experiment_table import experiment_table
from harness.reporting.findings_speed import profile_of
from harness.reporting.values import CellValues

ROOT = Path(__file__).resolve().parents[1]


def make_profiles(root: Path, factor: float, seeds: int = 3, noise: float = 0.002) -> None:
    """Runs of the experiment at the toy scale; all metrics in bf16 are `factor` times those in fp32 of the same seed, but for the noise."""
    rng = np.random.default_rng(0)
    for run in expand("speed_profiles", "toy", range(seeds)):
        changed = factor if run.train.precision == "bf16" else 1.0
        change = changed * (1 + 0.1 * run.seed) * math.exp(noise * rng.standard_normal())
        rows = [row | {"value": 0.2 * change} if row["final"] and row["metric"] == "w2" else row for row in records(run)]
        make_run(root, run, rows=rows)


def notes_of(root: Path) -> list[str]:
    loaded = load.read(root)
    table = experiment_table(experiment_cells(Selection("speed_profiles", "toy"), loaded), CellValues(loaded))
    return [note for note in table.notes if " against fp32" in note]


@pytest.mark.parametrize("scale", ["digits", "fashion", "paper"])
def test_every_model_is_there_in_fp32_with_fast_and_in_bf16(scale):
    runs = expand("speed_profiles", scale, [0])
    of_model: dict[str, list[Run]] = {}
    for run in runs:
        of_model.setdefault(run.coupling.kind, []).append(run)
    assert len({run.id for run in runs}) == len(runs) == 9 and set(of_model) == {"independent", "batch-ot", "gc"}
    for exact, fast, bf16 in of_model.values():
        assert {name: getattr(exact.train, name) for name in FP32} == FP32
        fast_values = fast_settings(exact.to_dict())
        assert fast_values and {name: getattr(fast.train, name) for name in fast_values} == fast_values
        assert (bf16.train.precision, bf16.train.compile) == ("bf16", False)
        for other in (fast, bf16):
            assert other.model_copy(update={"train": exact.train}) == exact, "nothing but the training's arithmetic differs"


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (1.0, ["equal within 5%", "None of 12 comparisons"]),
        (1.2, ["+20.", "different before the correction", "differ by Holm at 5%"]),
    ],
)
def test_a_profile_that_changes_a_metric_is_told_from_one_that_does_not(tmp_path, factor, expected):
    make_profiles(tmp_path, factor)
    (note,) = notes_of(tmp_path)
    assert note.startswith("bf16 channels last against fp32, W2 of each model, paired by training seed: IC ")
    for words in expected:
        assert words in note, note


def test_one_seed_is_no_test(tmp_path):
    make_profiles(tmp_path, 1.2, seeds=1)
    (note,) = notes_of(tmp_path)
    assert note.endswith("No test: one seed")


def test_published_digits_runs_of_fast_lie_within_the_noise_of_seeds():
    """Three seeds of each model at the digits scale, trained in full: no metric of --fast, nor of bf16, differs from fp32."""
    loaded = load.read(ROOT / "results", "published")
    experiment = experiment_cells(Selection("speed_profiles", "digits"), loaded)
    assert all(len(cell.runs) >= 3 for cell in experiment.cells)
    assert {profile_of(cell.run) for cell in experiment.cells} == {"fp32", "channels last", "bf16 channels last"}
    notes = [note for note in experiment_table(experiment, CellValues(loaded)).notes if " against fp32" in note]
    assert len(notes) == 2
    for note in notes:
        assert "3 seeds" in note and ". None of " in note, note
