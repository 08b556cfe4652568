"""Tables of experiments: which runs form a cell, and the numbers, comparisons and baselines that are shown."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from report_support import make_baselines, make_results, make_run, records, row_of, table
from scipy import stats as oracle

from harness.config.experiments import expand
from harness.config.parts import Independent
from harness.config.run import varied
from harness.config.selection import Selection
from harness.reporting import load as reader
from harness.reporting.cells import all_cells, experiment_cells, slug
from harness.reporting.experiment_frame import COLUMNS, experiment_frame
from harness.reporting.experiment_table import experiment_table
from harness.reporting.values import CellValues

ROOT = Path(__file__).resolve().parents[1]


def test_numbers_are_means_over_seeds_at_the_last_step_with_students_interval(results):
    runs = [run for run in expand("table1", "digits") if isinstance(run.coupling, Independent)]
    rows = [row for run in runs for row in records(run) if row["metric"] == "fid" and row["final"]]
    values = [row["value"] for row in rows]
    low, high = oracle.t.interval(0.95, len(values) - 1, sum(values) / len(values), oracle.sem(values))
    row = row_of(table(results), "ic")
    assert row[["mean", "low", "high"]].tolist() == pytest.approx([sum(values) / len(values), low, high])
    assert row.evaluation_sd == pytest.approx((sum(row["sd"] ** 2 for row in rows) / len(rows)) ** 0.5)
    assert (row.seeds, row.step) == (3, runs[0].train.steps)


def test_best_over_training_is_separate_from_the_final_value(tmp_path):
    (run, *_) = expand("table1", "digits", [0])
    rows = records(run)
    curve = [row for row in rows if row["metric"] == "fid" and not row["final"]]
    curve[2]["value"] = 0.01
    make_run(tmp_path, run, rows=rows)
    row = row_of(table(tmp_path), "ic")
    assert row.best == pytest.approx(0.01)
    assert row.best_first_step == row.best_last_step == curve[2]["step"]
    assert row["mean"] > 1


def test_missing_cells_are_shown_as_missing_with_the_state_of_their_runs(tmp_path):
    for run in expand("table1", "digits"):
        if slug(run) == "ic":
            make_run(tmp_path, run, done=run.seed != 2)
    loaded = reader.read(tmp_path)
    shown = experiment_table(experiment_cells(Selection("table1", "digits"), loaded), CellValues(loaded))
    assert row_of(shown.data, "ic")[["seeds", "seeds_wanted"]].tolist() == [2, 3]
    assert row_of(shown.data, "gc-0.5").seeds == 0
    assert [row for row in shown.rows if row[0] == "iCT-OT"] == [("iCT-OT", "0 of 3", *["-"] * (len(shown.headers) - 2))]
    assert "missing (new): Digits (8x8), iCT-IC; seeds 2" in shown.notes
    assert "missing (not run): Digits (8x8), iCT-OT, iCT-GC (mu=0.5); seeds 0, 1, 2" in shown.notes


def test_values_of_another_protocol_are_left_out_and_named(tmp_path):
    runs = [run for run in expand("table1", "digits") if isinstance(run.coupling, Independent)]
    for run in runs[:2]:
        make_run(tmp_path, run)
    make_run(tmp_path, runs[2], protocol="ffffffffffff")
    loaded = reader.read(tmp_path)
    shown = experiment_table(experiment_cells(Selection("table1", "digits"), loaded), CellValues(loaded))
    assert row_of(shown.data, "ic").seeds == 2
    assert any("ffffffffffff" in note and runs[2].id in note for note in shown.notes)


def test_a_table_contains_one_scale_only(results, tmp_path):
    make_results(tmp_path, "table1", "toy")
    make_results(tmp_path, "table1", "digits", [0])
    for scale, other in (("toy", "digits"), ("digits", "toy")):
        shown = table(tmp_path, scale=scale)
        assert set(shown[shown.kind == "model"].scale) == {scale}
        assert other not in set(shown.data)


def test_only_baselines_of_the_models_protocol_are_shown(tmp_path):
    make_results(tmp_path, "table1", "digits", [0])
    shown = table(tmp_path)
    baselines = shown[shown.kind == "baseline"]
    held_out, at_equal_n = "real data, held out (n = 360)", "real data, held out, equal n"
    assert set(baselines.model) == {held_out, at_equal_n, "Gaussian fit", "pure noise"}
    fid = baselines[baselines.metric == "fid"].set_index("model")
    (of_models,) = set(shown[(shown.kind == "model") & (shown.metric == "fid")].protocol)
    assert {name for name, protocol in fid.protocol.items() if protocol == of_models} == {at_equal_n, "Gaussian fit", "pure noise"}
    assert fid.samples.to_dict() == {held_out: 360, at_equal_n: 1437, "Gaussian fit": 1437, "pure noise": 1437}
    path = make_baselines(tmp_path)
    text = path.read_text().replace("aaaaaaaaaaaa", "999999999999")
    path.write_text(text)
    assert table(tmp_path).kind.eq("baseline").sum() == 0


def test_notes_say_what_held_out_images_of_another_n_are_compared_with_and_which_rows_are_missing(tmp_path):
    def notes() -> list[str]:
        loaded = reader.read(tmp_path)
        return list(experiment_table(experiment_cells(Selection("table1", "digits"), loaded), CellValues(loaded)).notes)

    make_results(tmp_path, "table1", "digits", [0])
    (note,) = (text for text in notes() if text.startswith("real data, held out (n = 360)"))
    assert "do not compare" in note and "1,437" in note and "estimate" in note
    path = make_baselines(tmp_path)
    content = json.loads(path.read_text())
    content["rows"] = [row for row in content["rows"] if "heldout" not in row["row"]]
    why = "held-out images: not prepared"
    path.write_text(json.dumps(content | {"absent": {"heldout": why}}))
    assert any(why in text for text in notes()) and not any("n = 360" in text for text in notes())


def test_further_seeds_count_if_they_have_records(tmp_path):
    make_results(tmp_path, "table1", "digits", [0, 1, 2, 7])
    row = row_of(table(tmp_path), "ic")
    assert (row.seeds, row.seeds_wanted) == (4, 3)


def test_runs_with_other_settings_are_another_cell(tmp_path):
    make_results(tmp_path, "table1", "digits", [0])
    (other,) = expand("table1", "digits", [0], ["train.lr=0.5"])[:1]
    make_run(tmp_path, other)
    assert row_of(table(tmp_path), "ic").seeds == 1
    cells = all_cells("digits", reader.read(tmp_path)).cells
    assert [cell.key for cell in cells if cell.slug == "ic"] == ["ic", "ic train.lr=0.5"]


def test_a_users_coupling_gets_its_row(tmp_path):
    (tmp_path / "mine.py").write_text("def my_coupling(x, z, sigma, predict):\n    return x, z\n")
    runs = expand("table1", "digits", [0], couplings=[f"{tmp_path / 'mine.py'}:my_coupling"])
    for run in runs:
        make_run(tmp_path, run)
    assert row_of(table(tmp_path), "my-coupling").seeds == 1


def test_table_3_stops_gc_at_the_wall_clock_of_ic(tmp_path, monkeypatch):
    experiments = tmp_path / "experiments"
    experiments.mkdir()
    text = "from harness.config import presets\n\ndef runs(scale, seeds):\n    return presets.grid(scale, presets.MAIN, seeds)\n"
    (experiments / "table3.py").write_text(text)
    make_results(tmp_path, "table1", "digits")
    monkeypatch.setenv("HARNESS_EXPERIMENTS", str(experiments))
    loaded = reader.read(tmp_path)
    shown = experiment_table(experiment_cells(Selection("table3", "digits"), loaded), CellValues(loaded))
    (row,) = [row for row in shown.rows if "wall-clock" in row[0]]
    values = []
    for run in expand("table3", "digits"):
        if slug(run) == "gc-0.5":
            limit = run.train.steps * 0.0125  # the recorded training time of the IC runs
            curve = [row for row in records(run) if row["metric"] == "fid" and not row["final"] and row["seconds"] <= limit]
            values.append(max(curve, key=lambda row: row["step"])["value"])
    assert len(values) == 3
    assert float(row[2].main) == pytest.approx(sum(values) / 3, abs=0.005)
    assert row[1] == "3"
    assert any(table.name == "paper-table3" for table in shown.more)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("schedule", ["iCT-IC", "iCT-IC; n0=40", "iCT-IC; n1=40", "iCT-IC; rho=3"]),
        ("scaling", ["iCT-IC", "iCT-IC; 360 rows", "iCT-IC; width 32", "iCT-IC; 1,200 steps"]),
        ("table3", ["iCT-GC (mu=0.5)", "iCT-GC (mu=0.5, online)", "iCT-GC (mu=0.5); dropout 0.3", "iCT-IC", "iCT-IC; dropout 0.3"]),
        ("figure4", ["iCT-IC", "iCT-IC; n1=10, 480 steps", "iCT-IC; 480 steps"]),
        ("table2", ["ECT-IC, 600 steps", "ECT-GC (mu=0.1), 600 steps"]),
    ],
)
def test_labels_are_short_and_distinct(tmp_path, name, labels):
    make_results(tmp_path, name, "digits", [0, 1])
    loaded = reader.read(tmp_path)
    shown = [row[0] for row in experiment_table(experiment_cells(Selection(name, "digits"), loaded), CellValues(loaded)).rows]
    assert shown[: len(labels)] == labels
    assert len(set(shown)) == len(shown)


def test_a_consequence_is_in_the_label_if_nothing_else_differs(tmp_path):
    for run in [*expand("table1", "digits", [0])[:1], *expand("table1", "digits", [0], ["ema.rate=0.5"])[:1]]:
        make_run(tmp_path, run)
    cells = all_cells("digits", reader.read(tmp_path)).cells
    assert [cell.label for cell in cells] == ["iCT-IC", "iCT-IC; EMA rate 0.5"]


def test_models_are_compared_with_the_one_of_equal_settings_by_seed(tmp_path):
    make_results(tmp_path, "schedule", "digits", [0, 1, 2])
    frame = table(tmp_path, "schedule")
    row = row_of(frame, "gc-0.5 noise.rho=3.0")
    assert row.against == "ic noise.rho=3.0"
    values = {}
    for run in expand("schedule", "digits", [0, 1, 2]):
        if run.noise.rho == 3:
            values[run.coupling.kind, run.seed] = next(r["value"] for r in records(run) if r["final"] and r["metric"] == "fid")
    expected = oracle.ttest_rel(*([values[kind, seed] for seed in range(3)] for kind in ("gc", "independent")))
    assert row.p == pytest.approx(expected.pvalue)
    assert (row.difference_low, row.difference_high) == pytest.approx(tuple(expected.confidence_interval()))
    assert pd.isna(row_of(frame, "ic noise.rho=3.0").difference)
    shown = experiment_table(experiment_cells(Selection("schedule", "digits"), reader.read(tmp_path)), CellValues(reader.read(tmp_path)))
    assert "against IC" in shown.headers


def test_ablations_of_gc_are_compared_with_gc(tmp_path):
    make_results(tmp_path, "mechanism", "digits", [0, 1])
    frame = table(tmp_path, "mechanism").query("metric == 'fid' and kind == 'model'").set_index("key")
    assert pd.isna(frame.against["gc-0.5"])
    assert set(frame.against.drop("gc-0.5")) == {"gc-0.5"}


def test_the_papers_values_are_shown_at_the_paper_scale_only(tmp_path):
    for name in ("table1", "table2", "table3"):
        make_results(tmp_path, name, "paper", [0])
    frame = table(tmp_path, "table2", "paper").query("kind == 'model' and metric == 'fid'")
    values = {(row.data, row.key.partition(" ")[0], row.step): row.paper for row in frame.itertuples() if not pd.isna(row.paper)}
    assert values == {
        ("cifar10", "ect-ic", 4000): 7.37, ("cifar10", "ect-ic", 100_000): 4.11, ("ffhq64", "ect-ic", 4000): 13.29,
        ("cifar10", "ect-gc-0.3", 4000): 6.41, ("cifar10", "ect-gc-0.3", 100_000): 3.74, ("ffhq64", "ect-ic", 100_000): 9.68,
        ("ffhq64", "ect-gc-0.3", 4000): 11.73, ("ffhq64", "ect-gc-0.3", 100_000): 8.51,
        ("imagenet64", "ect-ic", 4000): 10.82, ("imagenet64", "ect-ic", 100_000): 5.84,
        ("imagenet64", "ect-gc-0.3", 4000): 10.31, ("imagenet64", "ect-gc-0.3", 100_000): 6.39,
    }  # fmt: skip
    third = table(tmp_path, "table3", "paper").query("kind == 'model' and metric == 'fid'")
    assert third.set_index("model").paper.dropna().to_dict() == {
        "iCT-GC (mu=0.5)": 5.95, "iCT-GC (mu=0.5, online)": 6.73, "iCT-GC (mu=0.5); dropout 0.3": 7.77, "iCT-IC": 7.42,
    }  # fmt: skip
    first = table(tmp_path, "table1", "paper").query("metric == 'kid' and kind == 'model'")
    assert first.set_index(["data", "key"]).paper["church64", "ot"] == pytest.approx(0.0064)
    make_results(tmp_path, "table3", "digits", [0])
    assert "paper" not in table(tmp_path, "table3").columns


def test_no_row_of_the_papers_table_2_is_missing(tmp_path):
    """ImageNet-64 has the four rows of the paper; ECT's own values stand in the paper's table below, marked as such."""
    make_results(tmp_path, "table2", "paper", [0])
    loaded = reader.read(tmp_path)
    shown = experiment_table(experiment_cells(Selection("table2", "paper"), loaded), CellValues(loaded))
    rows = shown.rows[shown.rows.index(("ImageNet-64 (conditional)",)) + 1 :][:4]
    assert [row[0] for row in rows] == [f"ECT-{name}, {steps} steps" for steps in ("4,000", "100,000") for name in ("IC", "GC (mu=0.3)")]
    place = shown.headers.index("the paper")
    assert [str(row[place].main) for row in rows] == ["10.82", "10.31", "5.84", "6.39 +- 0.20"]
    assert not any(note.startswith("missing") for note in shown.notes)
    paper = next(table for table in shown.more if table.name == "paper-table2")
    published = [row for row in paper.rows if row[0] == "ECM (IC)"]
    assert len(published) == 2 and all(row[-1] == "[E]" for row in published)
    assert any("published by ECT" in note for note in paper.notes) and any("3.86 after 200,000 steps" in note for note in paper.notes)


def test_ect_with_edm2_has_rows_of_its_own_beside_ect_with_ddpmpp(tmp_path):
    make_results(tmp_path, "table2", "digits", [0, 1])
    loaded = reader.read(tmp_path)
    cells = experiment_cells(Selection("table2", "digits"), loaded)
    labels = {cell.label: cell for cell in cells.cells if cell.run.network.kind == "edm2"}
    assert set(labels) == {
        "Denoiser, IC; EDM2, conditional", "ECT-IC, 2,000 steps; EDM2, conditional", "ECT-GC (mu=0.3), 2,000 steps; EDM2, conditional"
    }  # fmt: skip
    assert {cell.key for cell in labels.values()} == {
        f"{name} network.kind=edm2, data.labels=True" for name in ("denoiser-ic", "ect-ic", "ect-gc-0.3")
    }
    assert len({cell.key for cell in cells.cells}) == len(cells.cells)
    frame = table(tmp_path, "table2", "digits").query("metric == 'fid' and kind == 'model'")
    augmented = frame[frame.model.str.contains("EDM2") & frame.model.str.contains("GC")].iloc[0]
    assert augmented.against == "ect-ic network.kind=edm2, data.labels=True", "a network is compared with itself"
    others = frame[~frame.model.str.contains("EDM2") & ~frame.against.isna()]
    assert len(others) and not others.against.str.contains("edm2").any()
    shown = [row[0] for row in experiment_table(cells, CellValues(loaded)).rows]
    assert not any("Denoiser" in label for label in shown) and len(set(shown)) == len(shown)


def test_the_settings_of_edm2_are_compared_with_edm2s(tmp_path):
    """Another rate of EDM2 is one difference, not all those from DDPM++; and all runs of a scale are told apart as well."""
    plain = [run for run in expand("table2", "digits", [0]) if run.objective.kind == "ect" and run.coupling.kind == "independent"]
    edm2 = plain[-1]
    for run in [*plain, varied(edm2, train={"lr": 0.02}), varied(edm2, train={"steps": 4000})]:
        make_run(tmp_path, run)
    cells = all_cells("digits", reader.read(tmp_path)).cells
    labels = [cell.label for cell in cells if cell.run.network.kind == "edm2"]
    assert len(set(labels)) == len(labels) == 3 and all("; EDM2, conditional" in label for label in labels)
    assert all(len(label) < 70 for label in labels), labels
    assert all(cell.key.startswith("ect-ic network.kind=edm2, data.labels=True") for cell in cells if cell.run.network.kind == "edm2")


def test_the_csv_holds_the_frame_and_the_printed_table_formats_it(results):
    loaded = reader.read(results)
    cells = experiment_cells(Selection("table1", "digits"), loaded)
    frame, shown = experiment_frame(cells, CellValues(loaded)), experiment_table(cells, CellValues(loaded))
    assert set(frame.columns) <= set(COLUMNS)
    assert set(frame.columns) - set(shown.data.columns) == {"relative"}
    row = row_of(frame, "gc-0.5")
    (printed,) = (cells for cells in shown.rows if cells[0] == row.model)
    assert printed[2].main == f"{row['mean']:.2f}"
    assert printed[-1].main == f"{row.relative:+.0%}"
    assert row.relative == pytest.approx(row.difference / row_of(frame, "ic")["mean"])


def test_advice_repeats_the_selection(tmp_path):
    make_run(tmp_path, expand("table1", "digits", [0], ["train.lr=0.5"])[0])
    loaded = reader.read(tmp_path)
    selection = Selection("table1", "digits", (0,), ("train.lr=0.5",), results=tmp_path)
    notes = experiment_table(experiment_cells(selection, loaded), CellValues(loaded)).notes
    (advice,) = (note for note in notes if "no baselines" in note)
    assert advice.endswith(selection.command("harness reproduce"))
