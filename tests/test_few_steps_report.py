"""Samples of several steps in the report: tables, verdict C8, the figure of quality against the number of function evaluations."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from report_support import MAIN, make_results, make_run, records, row_of
from rich.console import Console
from test_claims import base_without_objective, changed, judge, plain

from harness.config.experiments import expand
from harness.config.parts import GeneratorAugmented
from harness.config.run import Run
from harness.config.selection import Selection
from harness.errors import HarnessError
from harness.reporting import figure_requests, page_runs, tables
from harness.reporting import load as reader
from harness.reporting.cells import all_cells, experiment_cells
from harness.reporting.experiment_table import experiment_table
from harness.reporting.style import Figure
from harness.reporting.tables import Table, split
from harness.reporting.values import METRICS, CellValues, bounds_of
from harness.reporting.verdicts import Outcome
from harness.reporting.why import explain
from harness.stats.differences import paired
from harness.stats.intervals import interval
from harness.store.records import parted_name

SEEDS = [0, 1, 2]
TIMES = "evaluation.times=2,0.8"


def runs_with(*overrides: str, experiment: str = "table1", seeds: list[int] = SEEDS) -> list[Run]:
    return expand(experiment, "digits", seeds, overrides=list(overrides))


def table_of(root: Path, *overrides: str, experiment: str = "table1", scale: str = "digits") -> Table:
    loaded = reader.read(root)
    selection = Selection(experiment, scale, overrides=overrides)
    return experiment_table(experiment_cells(selection, loaded), CellValues(loaded))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("few-steps")
    for run in runs_with(TIMES):
        make_run(root, run)
    return root


def value_of(run: Run, metric: str) -> float:
    return next(row["value"] for row in records(run) if row["final"] and row["metric"] == metric)


# --- values and tables


def test_a_metric_of_several_steps_follows_from_that_of_one():
    two = METRICS["is/2-steps"]
    assert (two.name, two.title, two.better, two.bounds) == ("is/2-steps", "IS, 2 steps", "higher", METRICS["is"].bounds)
    assert bounds_of("is/3-steps", "digits") == (1.0, 10.0)
    assert not any("steps" in name for name in METRICS), "lists of metrics stay those of one step"
    for unknown in ("nonsense", "nonsense/2-steps"):
        with pytest.raises(KeyError):
            METRICS[unknown]
    assert parted_name("class_share/3/2-steps") == ("class_share/3", 2) and parted_name("class_share/3") == ("class_share/3", 1)


def test_the_steps_stand_beside_each_other_with_their_own_protocol_and_test(root):
    shown = table_of(root, TIMES)
    place = shown.headers.index("FID")
    assert shown.headers[place : place + 4] == ("FID", "FID, 2 steps", "FID, 3 steps", "KID x100")
    by_key = {run.coupling.kind: [other for other in runs_with(TIMES) if other.coupling == run.coupling] for run in runs_with(TIMES)}
    for metric in ("fid", "fid/2-steps", "fid/3-steps"):
        row = row_of(shown.data, "gc-0.5", metric)
        values = [value_of(run, metric) for run in by_key["gc"]]
        expected = interval(values, (0.0, None))
        assert (row["mean"], row.low, row.high) == pytest.approx((expected.mean, expected.low, expected.high))
        test = paired(dict(enumerate(values)), {run.seed: value_of(run, metric) for run in by_key["independent"]})
        assert (row.p, row.difference) == pytest.approx((test.p, test.mean))
    assert row_of(shown.data, "gc-0.5", "fid/2-steps").protocol == "222222222222" != row_of(shown.data, "gc-0.5").protocol
    (cells,) = (row for row in shown.rows if row[0] == "iCT-GC (mu=0.5)")
    assert split(cells[place + 1])[0] == f"{row_of(shown.data, 'gc-0.5', 'fid/2-steps')['mean']:.3f}"
    compared = split(cells[-1])[1].splitlines()
    assert [line.partition(" ")[0] for line in compared[2:]] == ["2", "3"] and all("better, p = " in line for line in compared[2:])
    assert all(len(row) == len(shown.headers) for row in shown.rows if len(row) > 1)
    notes = "\n".join(shown.notes)
    assert "the further steps at t = 2, 0.8, with fresh noise (stochastic re-noising)" in notes and "FID, 2 steps 222222222222" in notes


def test_all_formats_have_the_columns(root, tmp_path):
    shown = table_of(root, TIMES)
    paths = tables.write(shown, tmp_path)
    for path in paths:
        text = path.read_text()
        assert ("fid/2-steps" if path.suffix == ".csv" else "FID, 2 steps") in text
    buffer = io.StringIO()
    Console(file=buffer, width=240).print(tables.terminal(shown))
    assert "FID, 2 steps" in " ".join(buffer.getvalue().split())


def test_missing_values_of_further_steps_are_shown_as_missing(tmp_path):
    for run in runs_with(TIMES):
        make_run(tmp_path, run, rows=[row for row in records(run) if row["metric"] != "fid/3-steps"])
    shown = table_of(tmp_path, TIMES)
    column = shown.headers.index("FID, 3 steps")
    assert {row[column] for row in shown.rows if len(row) > 1} == {"-"}
    assert split(shown.rows[0][column - 1])[0] != "-"


def test_without_times_nothing_changes(tmp_path):
    make_results(tmp_path, "table1", "digits", SEEDS)
    shown = table_of(tmp_path)
    assert not [text for text in (*shown.headers, *shown.notes) if "steps" in text.lower() and "2 steps" in text]
    assert {parted_name(metric)[1] for metric in shown.data.metric} == {1} and "published" not in shown.data
    assert figure_requests.few_steps(all_cells("digits", reader.read(tmp_path)), CellValues(reader.read(tmp_path))) == []


def test_what_ects_authors_report_stands_beside_ect_with_ic(tmp_path):
    make_results(tmp_path, "table2", "paper", [0])
    shown = table_of(tmp_path, experiment="table2", scale="paper")
    frame = shown.data[(shown.data.kind == "model") & shown.data.published.notna()]
    assert {(row.data, row.metric): row.published for row in frame.itertuples()} == {
        ("cifar10", "fid"): 4.54, ("cifar10", "fid/2-steps"): 2.20, ("imagenet64", "fid"): 5.51, ("imagenet64", "fid/2-steps"): 3.18,
    }  # fmt: skip
    assert set(frame.key.str.partition(" ")[0]) == {"ect-ic"} and set(frame.step) == {100_000}
    assert shown.headers[-2:] == ("the paper", "ECT's authors")
    cells = {split(row[-1]) for row in shown.rows if len(row) == len(shown.headers)}
    assert ("4.54", "FID, 2 steps 2.20") in cells and ("-", "") in cells
    notes = "\n".join(shown.notes)
    assert "CIFAR-10: 2 steps" in notes and "t = 0.821" in notes and "ImageNet-64 (conditional): 2 steps" in notes and "t = 1.526" in notes
    (paper,) = (table for table in shown.more if table.name == "paper-table2")
    assert "FID, long, 2 steps" in paper.headers and any("from memory" in note for note in paper.notes)


def test_why_and_the_page_of_a_run_know_the_steps(root):
    loaded = reader.read(root)
    selection = Selection("table1", "digits", overrides=(TIMES,))
    text = "\n".join(explain(selection, "gc-0.5", "fid/2-steps", loaded))
    assert "fid/2-steps" in text and "protocol 222222222222" in text
    with pytest.raises(HarnessError, match="metric"):
        explain(selection, "gc-0.5", "fad/2-steps", loaded)
    values = page_runs._values(next(iter(loaded.runs.values())), CellValues(loaded))
    assert [name for name in values if name.startswith("FID")] == ["FID", "FID, 2 steps", "FID, 3 steps"]


# --- C8


def ect_runs(root: Path, level_of_two: float, with_two: bool = True) -> None:
    """ECT with IC and with GC (mu = 0.3), which is better with one step; with two, its FID is `level_of_two` times IC's."""
    base = [changed(run, objective={"kind": "ect"}, evaluation={"times": [0.8]}) for run in base_without_objective(plain("ic"))]
    for run in base:
        gc = changed(run, coupling=GeneratorAugmented(mu=0.3).model_dump())
        levels = {run: (1.0, 1.0), gc: (0.5, level_of_two)}
        for member, (one, two) in levels.items():
            rows = []
            for row in records(run):
                main, count = parted_name(row["metric"])
                factor = (one if count == 1 else two) * (1 + 0.01 * (member == gc) * run.seed) if main in MAIN else 1.0
                rows += [{**row, "run": member.id, "value": row["value"] * factor}] if with_two or count == 1 else []
            make_run(root, member, rows=rows)


@pytest.mark.parametrize(("level", "outcome"), [(0.5, Outcome.SUPPORTED), (2.0, Outcome.CONTRADICTED)])
def test_c8_looks_at_one_and_at_two_steps(tmp_path, level, outcome):
    ect_runs(tmp_path, level)
    verdict = judge(tmp_path, "C8")
    assert verdict.outcome is outcome, verdict.evidence()
    assert ["2 steps" in test.what for test in verdict.tests] == [False, True]
    assert verdict.outcomes == (Outcome.SUPPORTED, outcome)
    assert not any(effect.of_paper for effect in verdict.tests[1].effects), "the paper has no number for two steps"


def test_c8_without_the_values_of_two_steps_is_not_run(tmp_path):
    ect_runs(tmp_path, 0.5, with_two=False)
    verdict = judge(tmp_path, "C8")
    assert verdict.outcome is Outcome.NOT_RUN and verdict.outcomes[0] is Outcome.SUPPORTED


# --- the figure


def figure_of(root: Path, scale: str = "digits") -> Figure:
    loaded = reader.read(root)
    (request,) = figure_requests.few_steps(all_cells(scale, loaded), CellValues(loaded))
    figure = request.figure()
    assert figure is not None
    return figure


def test_the_figure_shows_the_values_and_intervals_of_the_table(root):
    figure, shown = figure_of(root), table_of(root, TIMES)
    assert figure.name == "few-steps-digits"
    rows = figure.data[figure.data["seed"].isna()]
    assert len(rows) == 9 and set(rows["steps"]) == {1, 2, 3} and set(rows["n"]) == {3}
    for row in rows.itertuples():
        metric = "fid" if row.steps == 1 else f"fid/{row.steps}-steps"
        expected = row_of(shown.data, str(row.key).partition(" ")[0], metric)
        assert (row.mean, row.low, row.high) == pytest.approx((expected["mean"], expected.low, expected.high))
        assert row.protocol == expected.protocol
    (axes,) = figure.canvas.axes
    assert list(axes.get_xticks()) == [1, 2, 3] and axes.get_xlabel() == "function evaluations"
    for text in ("n = 3 training seeds", "95 % interval", "of 1,437 samples", "t = 2, 0.8", "stochastic", "2 222222222222"):
        assert text in figure.caption, text
    assert "t = 2, 0.8, stochastic re-noising" in figure.title


def test_deterministic_renoising_is_a_line_of_its_own(root, tmp_path):
    for run in [*runs_with(TIMES), *runs_with(TIMES, "evaluation.renoising=deterministic")]:
        rows = records(run)
        if run.evaluation.renoising == "deterministic":
            rows = [{**row, "protocol": "d" * 12} if parted_name(row["metric"])[1] > 1 else row for row in rows]
        make_run(tmp_path, run, rows=rows)
    figure = figure_of(tmp_path)
    (axes,) = figure.canvas.axes
    labels = [text for text in axes.get_legend_handles_labels()[1] if text]
    assert sum("stochastic" in text for text in labels) == sum("deterministic" in text for text in labels) == 3
    rows = figure.data[figure.data["seed"].isna() & (figure.data["steps"] > 1)]
    deterministic = rows["key"].str.contains("deterministic") | (rows["protocol"] == "d" * 12)
    assert set(rows["protocol"][deterministic]) == {"d" * 12} and "d" * 12 not in set(rows["protocol"][~deterministic])
    assert "2 to 3 steps" in figure.caption and "the noise of the first step" in figure.caption


def test_ects_training_lengths_are_panels_with_one_legend(tmp_path):
    for run in expand("table2", "digits", [0, 1]):
        if run.objective.kind == "ect":
            make_run(tmp_path, run)
    figure = figure_of(tmp_path)
    shown = [axes for axes in figure.canvas.axes if axes.get_visible()]
    titles = [axes.get_title() for axes in shown]
    assert len(titles) == len(set(titles)) > 1 and all("training steps" in title for title in titles)
    colors: dict[str, set[str]] = {}
    for axes in shown:
        for line in axes.get_lines():
            if not str(line.get_label()).startswith("_"):
                colors.setdefault(str(line.get_label()), set()).add(str(line.get_color()))
    assert len(colors) > 2 and all(len(used) == 1 for used in colors.values()), "one colour for each name"
    assert isinstance(figure.data, pd.DataFrame) and set(figure.data["steps"]) == {1, 2}


def test_values_of_one_step_alone_are_no_figure(tmp_path):
    for run in runs_with(TIMES, seeds=[0]):
        make_run(tmp_path, run, rows=[row for row in records(run) if parted_name(row["metric"])[1] == 1])
    loaded = reader.read(tmp_path)
    (request,) = figure_requests.few_steps(all_cells("digits", loaded), CellValues(loaded))
    assert request.figure() is None


def test_classes_drawn_equally_often_are_said_to_be(tmp_path):
    overrides = ("data.labels=true", "evaluation.labels=balanced")
    for run in runs_with(*overrides, seeds=[0]):
        make_run(tmp_path, run, protocol="b" * 12)
    notes = table_of(tmp_path, *overrides).notes
    assert any("of each class equally often" in note for note in notes) and not any("no baselines yet" in note for note in notes)
