"""Values of cells: what a metric can be, the best value over training, and how differences are written."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_support import make_run, records, row_of, table

from harness.config.experiments import expand
from harness.config.selection import Selection
from harness.data.catalogue import REGISTRY
from harness.reporting import load
from harness.reporting.cells import experiment_cells
from harness.reporting.experiment_table import experiment_table
from harness.reporting.tables import p_text, signed, split
from harness.reporting.values import METRICS, CellValues, Value, bounds_of


@pytest.mark.parametrize(
    ("metric", "data", "bounds"),
    [
        ("fid", "cifar10", (0.0, None)),
        ("kid", "digits", (None, None)),
        ("w2", "eight-gaussians", (0.0, None)),
        ("modes_missing", "eight-gaussians", (0.0, 8.0)),
        ("classes_missing", "digits", (0.0, 10.0)),
        ("is", "digits", (1.0, 10.0)),
        ("is", "digits-rare", (1.0, 10.0)),
        ("is", "cifar10", (1.0, None)),
        ("recall", "church64", (0.0, 1.0)),
        ("class_tv", "digits", (0.0, 1.0)),
        ("rare_share", "digits-rare", (0.0, None)),
    ],
)
def test_what_a_metric_can_be(metric, data, bounds):
    assert bounds_of(metric, data) == bounds


@given(st.sampled_from(sorted(METRICS)), st.sampled_from(sorted(REGISTRY)), st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_no_interval_leaves_what_its_metric_can_be(metric, data, shares):
    low, high = bounds_of(metric, data)
    start, width = 0.0 if low is None else low, 50.0 if low is None or high is None else high - low
    values = {seed: start + width * share for seed, share in enumerate(shares)}
    interval = Value(metric, values, None, None, "p", (low, high)).interval
    if interval.low is None:
        assert max(values.values()) - min(values.values()) <= 1e-9 * max(map(abs, values.values()), default=0.0)
        return
    assert interval.low <= interval.mean <= interval.high
    assert low is None or interval.low >= low - 1e-12
    assert high is None or interval.high <= high + 1e-12 * high


def run_with_curve(tmp_path, change):
    """A report on one run of iCT-IC whose FID over training is changed by `change(step, value)`."""
    (run, *_) = expand("table1", "digits", [0])
    rows = records(run)
    for row in rows:
        if row["metric"] == "fid" and not row["final"]:
            row["value"] = change(row["step"], row["value"])
    make_run(tmp_path, run, rows=rows)
    return run, row_of(table(tmp_path), "ic")


def test_the_best_value_is_never_worse_than_the_final_one(tmp_path):
    run, row = run_with_curve(tmp_path, lambda step, value: value + 5)
    assert row.best == row["mean"]
    assert row.best_first_step == row.best_last_step == run.train.steps


def test_the_best_value_is_that_of_the_curve_where_this_is_better(tmp_path):
    run, row = run_with_curve(tmp_path, lambda step, value: 0.5 if step == expand("table1", "digits", [0])[0].evaluation.every else value)
    assert (row.best, row.best_first_step) == (0.5, run.evaluation.every)
    assert row["mean"] > 0.5


def test_one_seed_is_not_tested_and_says_so_in_every_difference(tmp_path):
    for run in expand("table1", "digits", [0]):
        make_run(tmp_path, run)
    loaded = load.read(tmp_path)
    shown = experiment_table(experiment_cells(Selection("table1"), loaded), CellValues(loaded))
    cells = {split(row[0])[0]: split(row[-1]) for row in shown.rows}
    for model in ("iCT-OT", "iCT-GC (mu=0.5)"):
        assert "one seed" in cells[model][1] and "p =" not in cells[model][1]
    assert all("[" not in split(cell)[1] for row in shown.rows for cell in row), "and one seed has no interval"
    assert "inconclusive" not in str(shown.rows)


def test_equal_differences_over_seeds_are_not_called_one_seed():
    assert "one seed" not in p_text(3, None)
    assert "one seed" in p_text(1, None)
    assert p_text(3, 0.0123) == "p = 0.012"
    assert p_text(3, 1e-20).startswith("p <")


@given(st.floats(-1e6, 1e6), st.sampled_from([".3g", ".0%", ".1%", ".2f"]))
def test_zero_has_no_sign_and_other_differences_have_one(value, places):
    text = signed(value, places)
    rounded = float(text.rstrip("%"))
    assert text[0] in "+-" if rounded else text[0] == "0"
    assert math.copysign(1, rounded) == math.copysign(1, value) or not rounded
