"""The report as a whole: what it reads, what it leaves out and says so, what it writes, and that it needs no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from report_support import make_baselines, make_results, make_run, records
from scipy import stats as oracle

from harness import report
from harness.config.experiments import expand
from harness.config.run import Independent
from harness.config.selection import Selection
from harness.reporting import load as reader
from harness.reporting import paper_values, statistics
from harness.reporting.cells import all_cells, experiment_cells, slug
from harness.reporting.experiment_table import experiment_table
from harness.reporting.tables import decimals
from harness.reporting.values import Numbers

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("results")
    make_results(root, "table1", "digits")
    return root


def table(root: Path, name: str = "table1", scale: str = "digits") -> pd.DataFrame:
    """The numbers of an experiment's table."""
    book = reader.read(root)
    return experiment_table(experiment_cells(Selection(name, scale), book), Numbers(book)).data


def row_of(frame: pd.DataFrame, key: str, metric: str = "fid") -> pd.Series:
    rows = frame[(frame.key == key) & (frame.metric == metric)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_table_1_in_the_terminal_and_on_disk(results, capsys):
    assert report.main(["table1", "--results", str(results), "--scale", "digits"]) == 0
    printed = capsys.readouterr().out
    for text in ("iCT-IC", "iCT-OT", "iCT-GC (mu=0.5)", "real data, held out", "pure noise", "7.42 +- 0.04", "C1", "C2", "SUPPORTED"):
        assert text in printed
    assert "samples/step-" in printed
    for suffix in ("md", "tex", "csv"):
        assert (results / "tables" / f"table1-digits.{suffix}").stat().st_size > 500


def test_numbers_are_means_over_seeds_at_the_last_step_with_students_interval(results):
    runs = [run for run in expand("table1", "digits") if isinstance(run.coupling, Independent)]
    rows = [row for run in runs for row in records(run) if row["metric"] == "fid" and row["final"]]
    values = [row["value"] for row in rows]
    low, high = oracle.t.interval(0.95, len(values) - 1, sum(values) / len(values), oracle.sem(values))
    row = row_of(table(results), "ic")
    assert row[["mean", "low", "high"]].tolist() == pytest.approx([sum(values) / len(values), low, high])
    assert row.evaluation_sd == pytest.approx((sum(row["sd"] ** 2 for row in rows) / len(rows)) ** 0.5)
    assert (row.seeds, row.step) == (3, runs[0].train.steps)


def test_best_over_training_stands_apart_and_is_no_final_value(tmp_path):
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
    book = reader.read(tmp_path)
    shown = experiment_table(experiment_cells(Selection("table1", "digits"), book), Numbers(book))
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
    book = reader.read(tmp_path)
    shown = experiment_table(experiment_cells(Selection("table1", "digits"), book), Numbers(book))
    assert row_of(shown.data, "ic").seeds == 2
    assert any("ffffffffffff" in note and runs[2].id in note for note in shown.notes)


def test_scales_never_meet_in_one_table(results, tmp_path):
    make_results(tmp_path, "table1", "toy")
    make_results(tmp_path, "table1", "digits", [0])
    for scale, other in (("toy", "digits"), ("digits", "toy")):
        shown = table(tmp_path, scale=scale)
        assert set(shown[shown.kind == "model"].scale) == {scale}
        assert other not in set(shown.data)


def test_baselines_of_the_models_protocol_alone(tmp_path):
    make_results(tmp_path, "table1", "digits", [0])
    shown = table(tmp_path)
    baselines = shown[shown.kind == "baseline"]
    assert set(baselines.model) == {"real data, held out", "real data, held out, at n", "Gaussian fit", "pure noise"}
    path = make_baselines(tmp_path)
    text = path.read_text().replace("aaaaaaaaaaaa", "999999999999")
    path.write_text(text)
    assert table(tmp_path).kind.eq("baseline").sum() == 0


def test_damage_is_named_and_the_rest_reported(tmp_path, capsys):
    runs = make_results(tmp_path, "table1", "digits")
    first, second, third = (tmp_path / "runs" / run.id for run in runs[:3])
    (first / "config.json").write_text("{ broken")
    lines = (second / "records.jsonl").read_text().splitlines()
    (second / "records.jsonl").write_text("\n".join([lines[0][:40], *lines[1:], json.dumps({"metric": "fid"}), lines[3][:30]]))
    (third / "records.jsonl").write_text((third / "records.jsonl").read_text().replace('"value":', '"value":NaN,"was":', 1))
    (damaged,) = tmp_path.glob("runs/digits-baselines-*/baselines.json")
    damaged.write_text("[]")
    assert report.main(["table1", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for path in (first / "config.json", second / "records.jsonl", third / "records.jsonl", damaged):
        assert str(path) in printed
    assert reader.read(tmp_path).entries.keys() == {run.id for run in runs[1:]}


def test_a_config_that_was_edited_does_not_pass_for_its_run(tmp_path):
    (run, *_) = make_results(tmp_path, "table1", "digits", [0])
    path = tmp_path / "runs" / run.id / "config.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 5'))
    book = reader.read(tmp_path)
    assert run.id not in book.entries
    assert any("disagree" in text for text in book.damage)


def test_a_run_from_before_a_config_field_existed_is_the_run_with_its_default(tmp_path):
    from harness.config.identity import identity_digest

    run = expand("table1", "digits", [0])[0]
    old = run.to_dict()
    del old["ema"]["copy_steps"]
    if run.ema.copy_steps:
        old["ema"] = {"rate": run.ema.rate}
    folder = make_run(tmp_path, run)
    path = folder.path.with_name(f"{run.slug}-{identity_digest(old)[:12]}")
    folder.path.rename(path)
    (path / "config.json").write_text(json.dumps(old))
    entries = reader.read(tmp_path).entries
    assert [entry.name for entry in entries.values()] == [path.name]
    assert set(entries) == {reader.from_dict(old).id}


def test_seeds_beyond_the_experiments_own_count_where_they_are_at_hand(tmp_path):
    make_results(tmp_path, "table1", "digits", [0, 1, 2, 7])
    row = row_of(table(tmp_path), "ic")
    assert (row.seeds, row.seeds_wanted) == (4, 3)


def test_other_settings_of_a_run_are_another_cell(tmp_path):
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
    book = reader.read(tmp_path)
    shown = experiment_table(experiment_cells(Selection("table3", "digits"), book), Numbers(book))
    (row,) = [row for row in shown.rows if "wall-clock" in row[0]]
    values = []
    for run in expand("table3", "digits"):
        if slug(run) == "gc-0.5":
            limit = run.train.steps * 0.0125  # what the invented IC runs say they took
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
def test_labels_tell_cells_apart_in_few_words(tmp_path, name, labels):
    make_results(tmp_path, name, "digits", [0, 1])
    book = reader.read(tmp_path)
    shown = [row[0] for row in experiment_table(experiment_cells(Selection(name, "digits"), book), Numbers(book)).rows]
    assert shown[: len(labels)] == labels
    assert len(set(shown)) == len(shown)


def test_what_only_follows_is_told_where_nothing_else_differs(tmp_path):
    for run in [*expand("table1", "digits", [0])[:1], *expand("table1", "digits", [0], ["ema.rate=0.5"])[:1]]:
        make_run(tmp_path, run)
    cells = all_cells("digits", reader.read(tmp_path)).cells
    assert [cell.label for cell in cells] == ["iCT-IC", "iCT-IC; ema.rate=0.5"]


def test_the_difference_from_the_baseline_is_that_of_equal_settings_and_seeds(tmp_path):
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
    shown = experiment_table(experiment_cells(Selection("schedule", "digits"), reader.read(tmp_path)), Numbers(reader.read(tmp_path)))
    assert "against IC" in shown.headers


def test_ablations_of_gc_are_held_against_gc(tmp_path):
    make_results(tmp_path, "mechanism", "digits", [0, 1])
    frame = table(tmp_path, "mechanism").query("metric == 'fid' and kind == 'model'").set_index("key")
    assert pd.isna(frame.against["gc-0.5"])
    assert set(frame.against.drop("gc-0.5")) == {"gc-0.5"}


def test_the_papers_value_stands_beside_at_the_paper_scale_alone(tmp_path):
    for name in ("table1", "table2", "table3"):
        make_results(tmp_path, name, "paper", [0])
    frame = table(tmp_path, "table2", "paper").query("kind == 'model' and metric == 'fid'")
    values = {(row.data, row.key.partition(" ")[0], row.step): row.paper for row in frame.itertuples() if not pd.isna(row.paper)}
    assert values == {
        ("cifar10", "ect-ic", 4000): 7.37, ("cifar10", "ect-ic", 100_000): 4.11, ("ffhq64", "ect-ic", 4000): 13.29,
        ("cifar10", "ect-gc-0.3", 4000): 6.41, ("cifar10", "ect-gc-0.3", 100_000): 3.74, ("ffhq64", "ect-ic", 100_000): 9.68,
        ("ffhq64", "ect-gc-0.3", 4000): 11.73, ("ffhq64", "ect-gc-0.3", 100_000): 8.51,
    }  # fmt: skip
    third = table(tmp_path, "table3", "paper").query("kind == 'model' and metric == 'fid'")
    assert third.set_index("model").paper.dropna().to_dict() == {
        "iCT-GC (mu=0.5)": 5.95, "iCT-GC (mu=0.5, online)": 6.73, "iCT-GC (mu=0.5); dropout 0.3": 7.77, "iCT-IC": 7.42,
    }  # fmt: skip
    first = table(tmp_path, "table1", "paper").query("metric == 'kid' and kind == 'model'")
    assert first.set_index(["data", "key"]).paper["church64", "ot"] == pytest.approx(0.0064)
    make_results(tmp_path, "table3", "digits", [0])
    assert "paper" not in table(tmp_path, "table3").columns


def test_imagenet_64_is_shown_as_missing_with_the_reason(tmp_path):
    make_results(tmp_path, "table2", "paper", [0])
    book = reader.read(tmp_path)
    shown = experiment_table(experiment_cells(Selection("table2", "paper"), book), Numbers(book))
    rows = shown.rows[shown.rows.index(("ImageNet-64 (conditional)",)) + 1 :]
    assert [row[0] for row in rows] == [f"ECT-{name}, {steps} steps" for name in ("IC", "GC (mu=0.3)") for steps in ("4,000", "100,000")]
    assert all(row[1] == "0" and set(row[2:-1]) == {"-"} and len(row) == len(shown.headers) for row in rows)
    assert rows[-1][-1] == "6.39 +- 0.20"
    assert any("ImageNet-64" in note and "ADM" in note for note in shown.notes)


def test_written_tables_carry_the_verdicts(tmp_path, capsys):
    make_results(tmp_path, "table3", "digits", [0, 1, 2])
    assert report.main(["table3", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "C9 " in printed and "C10 " in printed and "C1 " not in printed
    for suffix in ("md", "tex"):
        assert "C9 (Table 3)" in (tmp_path / "tables" / f"table3-digits.{suffix}").read_text()


def test_experiments_that_only_measure_table_1s_models_have_no_table(tmp_path, capsys):
    make_results(tmp_path, "table1", "digits", [0])
    make_results(tmp_path, "mechanism", "digits", [0])
    assert report.main(["--results", str(tmp_path)]) == 0
    names = {path.stem for path in (tmp_path / "tables").glob("*-digits.csv")}
    assert {"table1-digits", "mechanism-digits"} <= names
    assert not names & {"figure3-digits", "theory-digits", "figure1-digits"}


def test_everything_is_rebuilt(results, capsys):
    assert report.main(["--results", str(results)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("The paper's claims")
    assert {"claims.md", "ledger.tex", "table1-digits.csv"} <= {path.name for path in (results / "tables").iterdir()}
    figures = {path.name for path in (results / "figures").iterdir()}
    assert {"convergence-digits.pdf", "transport-training-digits.csv", "figure8-digits.png"} <= figures
    assert 10_000 < (results / "report.html").stat().st_size < 5_000_000


def test_a_reader_who_has_seen_enough_leaves_every_file_written(results):
    for path in (results / "report.html", results / "tables" / "claims.md"):
        path.unlink(missing_ok=True)
    command = f"{sys.executable} {ROOT / 'harness' / 'report.py'} --results {results} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("The paper's claims")
    assert "Traceback" not in done.stderr
    assert (results / "report.html").exists()
    assert (results / "tables" / "claims.md").exists()


def test_nothing_at_hand_is_no_error(tmp_path, capsys):
    assert report.main(["--results", str(tmp_path)]) == 0
    assert "No records" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["tabel1"], ("tabel1", "table1")),
        (["table1", "--scale", "didgits"], ("--scale", "didgits", "digits")),
        (["--compare", "toy", "nowhere"], ("toy", "(none)")),
        (["table1", "--seeds", "x"], ("--seeds", "x")),
        (["table1", "--set", "train.lrr=1"], ("train.lrr", "train.lr")),
    ],
)
def test_bad_input_is_reported_with_exit_code_2(arguments, facts, tmp_path, capsys):
    assert report.main(["--results", str(tmp_path), *arguments]) == 2
    printed = capsys.readouterr()
    assert all(fact in printed.err for fact in facts)
    assert "Traceback" not in printed.err


def test_compare_pairs_equal_data_and_only_shows_others(tmp_path, capsys):
    left, right = tmp_path / "left", tmp_path / "right"
    make_results(left, "table1", "digits")
    make_results(right, "table1", "digits", strength=2.0)
    make_results(left, "table1", "toy", [0])
    assert report.main(["--results", str(left), "--compare", str(left), str(right)]) == 0
    frame = pd.read_csv(left / "tables" / "comparison.csv").set_index("key")
    a, b = (table(root).set_index("key").query("metric == 'fid'") for root in (left, right))
    assert frame.difference["gc-0.5"] == pytest.approx(b["mean"]["gc-0.5"] - a["mean"]["gc-0.5"])
    assert frame.p["gc-0.5"] < 0.05
    assert report.main(["--results", str(left), "--compare", "digits", "toy"]) == 0
    assert "other data" in capsys.readouterr().out
    assert "difference" not in pd.read_csv(left / "tables" / "comparison.csv")


def test_tensorboard_reads_what_was_written(results, capsys):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert report.main(["--results", str(results), "--tensorboard"]) == 0
    run = expand("table1", "digits")[0]
    events = accumulator.EventAccumulator(str(results / "tensorboard" / "digits" / run.id)).Reload()
    curve = [(row["step"], row["value"]) for row in records(run) if row["metric"] == "fid" and not row["final"]]
    assert [event.step for event in events.Scalars("fid")] == [step for step, _ in curve]
    assert [event.value for event in events.Scalars("fid")] == pytest.approx([value for _, value in curve], rel=1e-6)


def test_no_torch_anywhere_in_the_report(results):
    code = (
        "import pkgutil, sys, harness.reporting as all; from harness import report; "
        "[__import__('harness.reporting.' + module.name) for module in pkgutil.iter_modules(all.__path__)]; "
        f"assert report.main(['table1', '--results', {str(results)!r}]) == 0; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_script_runs_by_path_from_elsewhere_and_under_a_python_without_pandas(results, tmp_path):
    if not (ROOT / ".venv" / "bin" / "python").exists():
        pytest.skip("no .venv to fall back on")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HARNESS_REPORT_VENV")}
    script = [sys.executable, "-S", str(ROOT / "harness" / "report.py"), "table1", "--results", str(results)]
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "iCT-GC" in done.stdout


def test_the_papers_values_are_those_of_the_paper():
    values = {(row["data"], row["model"]): row for row in paper_values.paper()["table1"]["rows"]}
    assert len(values) == 12
    assert values["cifar10", "gc-0.5"]["fid"] == [5.95, 0.05]
    assert paper_values.value("table1", "church64", "ot", "kid") == (0.64, 0.03)
    assert paper_values.value("table2", "cifar10", "ect-gc-0.3", "short") == (6.41, None)
    assert [row["fid"][0] for row in paper_values.paper()["table3"]["rows"]] == [5.95, 6.38, 6.73, 7.77]
    assert paper_values.value("table1", "digits", "ic", "fid") is None


class TestStatistics:
    values = (1.2, 1.5, 1.1, 1.9)
    others = (1.0, 1.6, 0.7, 1.2)

    def test_interval_of_few_seeds_is_students(self):
        mean = statistics.interval(self.values)
        expected = oracle.t.interval(0.95, 3, sum(self.values) / 4, oracle.sem(self.values))
        assert (mean.low, mean.high) == pytest.approx(expected)
        assert "Student" in mean.method

    def test_interval_of_many_seeds_is_a_bootstrap(self):
        values = list(oracle.norm.rvs(size=40, random_state=1))
        mean = statistics.interval(values)
        low, high = oracle.t.interval(0.95, 39, sum(values) / 40, oracle.sem(values))
        assert "bootstrap" in mean.method
        assert (mean.low, mean.high) == pytest.approx((low, high), abs=0.05)
        assert mean == statistics.interval(values)

    def test_one_seed_has_no_interval_and_no_test(self):
        assert statistics.interval([2.0]).low is None
        assert statistics.paired({0: 1.0}, {0: 2.0}).p is None
        assert statistics.paired({0: 1.0}, {1: 2.0}) is None

    def test_paired_against_scipy(self):
        difference = statistics.paired(dict(enumerate(self.values)), dict(enumerate(self.others)) | {9: 4.0})
        expected = oracle.ttest_rel(self.values, self.others)
        assert (difference.p, difference.n) == (pytest.approx(expected.pvalue), 4)
        assert (difference.low, difference.high) == pytest.approx(tuple(expected.confidence_interval()))

    def test_welch_against_scipy(self):
        difference = statistics.welch(self.values, self.others[:3])
        expected = oracle.ttest_ind(self.values, self.others[:3], equal_var=False)
        assert difference.p == pytest.approx(expected.pvalue)
        assert (difference.low, difference.high) == pytest.approx(tuple(expected.confidence_interval()))

    def test_from_errors_is_a_normal_test(self):
        difference = statistics.from_errors(1.0, 0.3, 0.2, 0.4)
        assert difference.p == pytest.approx(2 * oracle.norm.sf(0.8 / 0.5))
        assert statistics.from_errors(1.0, 0.0, 2.0, 0.0).p == 0
        assert statistics.from_errors(1.0, float("nan")).p is None

    def test_holm_by_its_definition(self):
        assert statistics.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
        assert statistics.holm([]) == []

    def test_decimals_keep_three_digits_of_the_smallest(self):
        assert [decimals([value]) for value in (123.4, 12.3, 1.23, 0.0123)] == [0, 1, 2, 4]
