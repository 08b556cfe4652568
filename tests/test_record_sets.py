"""Sets of records: own runs, published records, or both. They are never mixed without being asked, and every text says which it shows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import fmean

import pandas as pd
import pytest
from report_support import make_baselines, make_results, make_run, records, row_of
from rich.console import Console

from harness import cli, report
from harness.config.experiments import expand
from harness.config.selection import Selection
from harness.reporting import claims, load
from harness.reporting.cells import all_cells, experiment_cells
from harness.reporting.experiment_table import experiment_table
from harness.reporting.printing import console
from harness.reporting.publish import publish
from harness.reporting.tables import Table, terminal
from harness.reporting.values import CellValues
from harness.reporting.verdicts import Evidence
from harness.store import fingerprint, measurements
from harness.store.measurements import MeasurementRow
from harness.store.records import RECORD_SETS

RUNS = expand("table1", "digits")
FIRST = RUNS[0]
"""iCT-IC, seed 0."""


def changed(run, factor: float) -> list[dict]:
    """The records of a run with other values, as another processor would give."""
    return [{**row, "value": row["value"] * factor} for row in records(run)]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A results folder as in a fresh clone: published records and baselines of Table 1, and no own runs."""
    source, root = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("published")
    make_results(source, "table1", "digits")
    publish(Selection("table1"), source, root)
    return root


@pytest.fixture
def mixed(published, tmp_path) -> Path:
    """The same with one own run, whose values are ten times the published ones."""
    shutil.copytree(published / "published", tmp_path / "published")
    make_run(tmp_path, FIRST, rows=changed(FIRST, 10.0))
    return tmp_path


def final_fid(run) -> float:
    return next(row["value"] for row in records(run) if row["metric"] == "fid" and row["final"])


def shown(root: Path, capsys, *options: str) -> tuple[str, str]:
    """The first line of a report on Table 1, and all of it."""
    assert report.main(["table1", "--results", str(root), *options]) == 0
    printed = capsys.readouterr().out
    return printed.partition("\n")[0], printed


def test_own_and_published_values_are_averaged_only_when_pooling_is_asked_for(mixed, capsys):
    ic = [run for run in RUNS if run.coupling.kind == "independent"]
    values = [final_fid(run) for run in ic]
    expected = {
        "": ("", [10 * values[0]], "own", "own runs"),
        "published": ("published", values, "published", "published records of commit"),
        "both": ("both", [10 * values[0], *values[1:]], "1 own, 2 published", "own and published pooled (1 own, 8 published runs)"),
    }
    for option, (part, wanted, source, label) in expected.items():
        _, printed = shown(mixed, capsys, *(["--records", option] if option else []))
        folder = mixed / "tables" / part
        frame = pd.read_csv(folder / "table1-digits.csv")
        row = row_of(frame, "ic")
        assert row["mean"] == pytest.approx(fmean(wanted))
        assert (row.seeds, row.records) == (len(wanted), source)
        assert row_of(frame, "ot").seeds == (0 if option == "" else 3)
        title = next(line for line in printed.splitlines() if line.startswith("Table 1"))
        assert all(label in text for text in (title, *((folder / f"table1-digits.{suffix}").read_text() for suffix in ("md", "tex"))))
    assert row_of(pd.read_csv(mixed / "tables" / "table1-digits.csv"), "ic")["mean"] == pytest.approx(10 * values[0]), "not replaced"


def test_the_first_line_says_what_is_shown_and_how_to_see_the_rest(published, mixed, capsys):
    first, _ = shown(published, capsys)
    assert first.startswith("Published records of commit") and "no own runs" in first and str(published) in first
    first, _ = shown(published, capsys, "--records", "own")
    assert first.startswith("No own runs") and "--records published" in first
    first, _ = shown(mixed, capsys)
    assert first.startswith("Own runs (digits: 1 run)") and "digits: 9 runs" in first and "--records published" in first
    first, _ = shown(mixed, capsys, "--records", "published")
    assert first.startswith("Published") and "--records own" in first
    first, _ = shown(mixed, capsys, "--records", "both")
    assert first.startswith("Own and published pooled (1 own, 8 published runs)") and "other numbers" in first


def test_own_runs_of_another_scale_do_not_hide_the_published_records_of_this_one(published, tmp_path, capsys):
    shutil.copytree(published / "published", tmp_path / "published")
    make_results(tmp_path, "table1", "toy", [0])
    assert load.read(tmp_path).records == "own"
    assert load.read(tmp_path, scale="digits").records == "published"
    assert load.read(tmp_path, scale="digits").scales == ["digits"]
    first, _ = shown(tmp_path, capsys, "--scale", "digits")
    assert first.startswith("Published") and "digits scale" in first


def verdicts(root: Path, records: str | None) -> dict[str, tuple[str, list[float | None]]]:
    """Of each claim the outcome, and the mean differences of its tests."""
    loaded = load.read(root, records, "digits")
    measured = measurements.read(root, [], loaded.records)
    judged = claims.judge(Evidence(all_cells("digits", loaded), CellValues(loaded), measured))
    return {verdict.id: (verdict.outcome, [test.difference and test.difference.mean for test in verdict.tests]) for verdict in judged}


def test_no_verdict_changes_because_an_own_run_is_added(published, mixed):
    before = verdicts(published, None)
    assert before["C1"][0] == "supported"
    assert verdicts(mixed, "published") == before
    assert verdicts(mixed, None)["C1"][0] == "not run", "one own run and no own run to compare it with"
    assert verdicts(mixed, "both")["C1"][1] != before["C1"][1]


def test_a_run_is_pooled_once_and_as_ones_own_only_if_it_is_done(published, tmp_path):
    shutil.copytree(published / "published", tmp_path / "published")
    make_run(tmp_path, FIRST, done=False)
    make_run(tmp_path, RUNS[1])
    loaded = load.read(tmp_path, "both")
    assert {run.id: loaded.runs[run.id].source for run in RUNS[:2]} == {FIRST.id: "published", RUNS[1].id: "own"}
    assert len(loaded.runs) == len(RUNS)
    assert not loaded.frame.duplicated(["run", "step", "metric", "final"]).any()
    assert loaded.label.startswith("own and published pooled (1 own, 8 published runs)")


def test_measurements_follow_the_same_rule(tmp_path):
    folder = tmp_path / "published" / "digits" / "measured"
    folder.mkdir(parents=True)
    (folder / "figure2.csv").write_text("quantity,data,value\nrtil,digits,1\n")
    (folder / "figure3.csv").write_text("quantity,data,value\ncost,digits,2\n")
    assert load.read(tmp_path, scale="digits").records == "published"
    measurements.write(tmp_path, "digits", "figure2", [MeasurementRow("rtil", "digits", 3.0)])
    assert load.read(tmp_path, scale="digits").records == "own"
    values = {name: measurements.read(tmp_path, [], name).value.tolist() for name in RECORD_SETS}
    assert values == {"own": [3.0], "published": [1.0, 2.0], "both": [3.0, 2.0]}


def test_runs_of_different_machines_are_named(tmp_path):
    for run in RUNS[:2]:
        make_run(tmp_path, run)
    loaded = load.read(tmp_path)
    assert loaded.label == "own runs"
    make_run(tmp_path, RUNS[2]).add_attempt({"device": "NVIDIA H100"})
    loaded = load.read(tmp_path)
    assert loaded.label.endswith("machines: AMD EPYC, NVIDIA H100")
    cells = experiment_cells(Selection("table1"), loaded)
    assert "AMD EPYC, NVIDIA H100" in experiment_table(cells, CellValues(loaded)).title
    assert loaded.label_of(loaded.find(run.id for run in RUNS[:2])) == "own runs"


@pytest.mark.parametrize("command", [["report", "table1"], ["why", "table1", "digits", "ic", "fid"], ["reproduce", "table1"]])
def test_an_unknown_set_of_records_is_one_message_and_exit_code_2(command, tmp_path, capsys):
    assert cli.main([*command, "--results", str(tmp_path), "--records", "publishd"]) == 2
    error = capsys.readouterr().err
    assert "--records" in error and "own, published, both" in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_why_explains_the_number_of_the_table_that_is_shown(mixed, capsys):
    values = {"own": 10 * final_fid(FIRST), "published": final_fid(FIRST)}
    for option, source in (([], "own"), (["--records", "published"], "published")):
        assert cli.main(["why", "table1", "digits", "ic", "fid", "--results", str(mixed), *option]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert source in lines[0]
        (record,) = [json.loads(line.partition("record: ")[2]) for line in lines if "record: " in line and FIRST.id in line]
        assert record["value"] == pytest.approx(values[source])


def test_own_and_published_side_by_side(mixed, capsys):
    assert report.main(["--results", str(mixed), "--compare", "own", "published"]) == 0
    printed = capsys.readouterr().out
    assert "own runs" in printed and "published records of commit" in printed
    row = pd.read_csv(mixed / "tables" / "comparison-own-published.csv").set_index("key").loc["ic"]
    assert row.mean_a == pytest.approx(10 * final_fid(FIRST))
    assert (row.seeds_a, row.seeds_b) == (1, 3)


def test_equal_runs_are_called_equal(published, tmp_path, capsys):
    shutil.copytree(published / "published", tmp_path / "published")
    for run in RUNS:
        make_run(tmp_path, run)
    assert report.main(["--results", str(tmp_path), "--compare", "own", "published"]) == 0
    assert capsys.readouterr().out.count("equal in 3 common seeds") == 3


def test_a_finished_run_without_records_is_named_with_the_command_that_restores_it(tmp_path, capsys):
    folder = make_run(tmp_path, FIRST)
    (folder.path / "checkpoints").mkdir()
    (folder.path / "checkpoints" / f"step-{FIRST.train.steps:08d}.json").write_text("{}")
    make_baselines(tmp_path)
    assert row_of(table_frame(tmp_path), "ic").seeds == 1
    (folder.path / "records.jsonl").unlink()
    assert row_of(table_frame(tmp_path), "ic").seeds == 0
    _, printed = shown(tmp_path, capsys, "--records", "own")
    assert f"harness run {FIRST.id} --results {tmp_path}" in printed


def table_frame(root: Path) -> pd.DataFrame:
    loaded = load.read(root, "own")
    return experiment_table(experiment_cells(Selection("table1"), loaded), CellValues(loaded)).data


def test_tables_name_the_code_that_made_their_runs(tmp_path):
    folder = make_run(tmp_path, FIRST)
    (folder.path / "attempts.jsonl").unlink()
    folder.add_attempt({"device": "AMD EPYC", "parts": dict(fingerprint.parts())})
    loaded = load.read(tmp_path)
    cells = experiment_cells(Selection("table1"), loaded)
    assert not any("today's code" in note for note in experiment_table(cells, CellValues(loaded)).notes)
    folder.add_attempt({"device": "AMD EPYC", "parts": {**fingerprint.parts(), "metrics": "0" * 12}})
    loaded = load.read(tmp_path)
    (note,) = (note for note in experiment_table(cells, CellValues(loaded)).notes if "today's code" in note)
    assert "1 run" in note and "metrics" in note and "core" not in note


def test_a_wide_table_is_not_folded_in_a_pipe(capsys):
    names = [f"column {i}" for i in range(40)]
    wide = Table("wide", "Wide", ("model", *names), (("iCT-GC (mu=0.5, frozen)", *["[0.000, 0.000]"] * 40),))
    out = console()
    assert not out.is_terminal
    out.print(terminal(wide))
    printed = capsys.readouterr().out
    (header,) = (line for line in printed.splitlines() if line.lstrip().startswith("model"))
    assert all(name in header for name in names)
    (row,) = (line for line in printed.splitlines() if "iCT-GC" in line)
    assert row.count("[0.000, 0.000]") == 40
    assert max(map(len, printed.splitlines())) < 1_000, "not padded to the width of the console"


def test_a_terminal_keeps_its_width(monkeypatch):
    monkeypatch.setattr("harness.reporting.printing.Console", lambda **options: Console(force_terminal=True, width=80, **options))
    assert console().width == 80
