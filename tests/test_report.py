"""`harness report`: what it reads, leaves out and writes, and that it needs no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from report_support import make_results, make_run, records, table

from harness import report
from harness.config.experiments import expand
from harness.reporting import load as reader
from harness.reporting import paper_values

ROOT = Path(__file__).resolve().parents[1]


def test_table_1_in_the_terminal_and_on_disk(results, capsys):
    assert report.main(["table1", "--results", str(results), "--scale", "digits"]) == 0
    printed = capsys.readouterr().out
    for text in ("iCT-IC", "iCT-OT", "iCT-GC (mu=0.5)", "real data, held out", "pure noise", "7.42 +- 0.04", "C1", "C2", "SUPPORTED"):
        assert text in printed
    assert "samples/step-" in printed
    for suffix in ("md", "tex", "csv"):
        assert (results / "tables" / f"table1-digits.{suffix}").stat().st_size > 500


def test_a_table_of_other_runs_does_not_replace_the_plain_one(tmp_path, capsys):
    make_results(tmp_path, "table1", "toy")
    folder = tmp_path / "tables"
    assert report.main(["table1", "--results", str(tmp_path), "--scale", "toy"]) == 0
    plain = {path: path.read_bytes() for path in folder.iterdir()}
    assert {path.name for path in plain} == {f"table1-toy.{suffix}" for suffix in ("md", "tex", "csv")}
    (coupling := tmp_path / "my.py").write_text("def f(x, z, sigma, predict):\n    return x, z\n")
    variants = {
        "table1-toy-train.steps=100-seed-0": (["--set", "train.steps=100", "--seeds", "1"], ("train.steps=100", "seed 0")),
        "table1-toy-seeds-0-7": (["--seeds", "7,0"], ("seeds 0, 7",)),
        "table1-toy-coupling-my.py-f-*": (["--coupling", f"{coupling}:f"], ("coupling my.py:f",)),
    }
    for name, (options, facts) in variants.items():
        assert report.main(["table1", "--results", str(tmp_path), "--scale", "toy", *options]) == 0
        for suffix in ("md", "tex", "csv"):
            (path,) = folder.glob(f"{name}.{suffix}")
            title = path.read_text().partition(r"\begin{tabular}" if suffix == "tex" else "\n")[0]
            assert suffix == "csv" or all(fact in title for fact in facts)
    assert {path: path.read_bytes() for path in plain} == plain
    assert len(list(folder.iterdir())) == 3 * (1 + len(variants))


def test_default_seeds_are_named_only_where_others_have_records(tmp_path):
    runs = make_results(tmp_path, "table1", "toy")
    seeds = str(len({run.seed for run in runs}))
    command = ["table1", "--results", str(tmp_path), "--scale", "toy"]
    assert report.main([*command, "--seeds", seeds]) == 0
    assert {path.stem for path in (tmp_path / "tables").iterdir()} == {"table1-toy"}
    make_results(tmp_path, "table1", "toy", [77])
    assert report.main(command) == 0
    plain = (tmp_path / "tables" / "table1-toy.csv").read_bytes()
    assert b"77:" in plain
    assert report.main([*command, "--seeds", seeds]) == 0
    assert (tmp_path / "tables" / "table1-toy.csv").read_bytes() == plain


def test_the_sample_grids_of_every_data_set_are_listed(tmp_path, capsys):
    runs = [run for run in expand("table1", "paper", [0]) if run.data.name in ("cifar10", "celeba64")]
    for run in runs:
        make_run(tmp_path, run)
    assert report.main(["table1", "--results", str(tmp_path), "--scale", "paper"]) == 0
    printed = capsys.readouterr().out
    assert all(str(tmp_path / "runs" / run.id / "samples") in printed for run in runs)


def test_damage_is_named_and_the_rest_is_reported(tmp_path, capsys):
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
    assert reader.read(tmp_path).runs.keys() == {run.id for run in runs[1:]}


def test_an_edited_config_is_not_taken_for_its_run(tmp_path):
    (run, *_) = make_results(tmp_path, "table1", "digits", [0])
    path = tmp_path / "runs" / run.id / "config.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 5'))
    loaded = reader.read(tmp_path)
    assert run.id not in loaded.runs
    assert any(str(path) in text and run.id in text for text in loaded.damage)


def test_a_run_from_before_a_config_field_existed_has_the_default_of_that_field(tmp_path):
    from harness.config.identity import identity_digest
    from harness.config.overrides import from_dict

    run = expand("table1", "digits", [0])[0]
    old = run.to_dict()
    del old["ema"]["copy_steps"]
    if run.ema.copy_steps:
        old["ema"] = {"rate": run.ema.rate}
    folder = make_run(tmp_path, run)
    path = folder.path.with_name(f"{run.slug}-{identity_digest(old)[:12]}")
    folder.path.rename(path)
    (path / "config.json").write_text(json.dumps(old))
    entries = reader.read(tmp_path).runs
    assert [entry.name for entry in entries.values()] == [path.name]
    assert set(entries) == {from_dict(old).id}


def test_written_tables_contain_the_verdicts(tmp_path, capsys):
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
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Own runs (digits: 9 runs)")
    assert any(line.startswith("The paper's claims") for line in lines[1:3])
    assert {"claims.md", "ledger.tex", "table1-digits.csv"} <= {path.name for path in (results / "tables").iterdir()}
    figures = {path.name for path in (results / "figures").iterdir()}
    assert {"convergence-digits.pdf", "transport-training-digits.csv", "figure8-digits.png"} <= figures
    assert 10_000 < (results / "report.html").stat().st_size < 5_000_000


def test_a_closed_pipe_leaves_every_file_written(results):
    for path in (results / "report.html", results / "tables" / "claims.md"):
        path.unlink(missing_ok=True)
    command = f"{sys.executable} {ROOT / 'harness' / 'report.py'} --results {results} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("Own runs")
    assert "Traceback" not in done.stderr
    assert (results / "report.html").exists()
    assert (results / "tables" / "claims.md").exists()


def test_no_records_is_no_error(tmp_path, capsys):
    assert report.main(["--results", str(tmp_path)]) == 0
    assert "No own records" in capsys.readouterr().out


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


def test_compare_tests_equal_data_and_shows_other_data_without_a_test(tmp_path, capsys):
    left, right = tmp_path / "left", tmp_path / "right"
    make_results(left, "table1", "digits")
    make_results(right, "table1", "digits", strength=2.0)
    make_results(left, "table1", "toy", [0])
    assert report.main(["--results", str(left), "--compare", str(left), str(right)]) == 0
    (path,) = (left / "tables").glob("comparison-left-*-right-*.csv")
    frame = pd.read_csv(path).set_index("key")
    a, b = (table(root).set_index("key").query("metric == 'fid'") for root in (left, right))
    assert frame.difference["gc-0.5"] == pytest.approx(b["mean"]["gc-0.5"] - a["mean"]["gc-0.5"])
    assert frame.p["gc-0.5"] < 0.05
    assert report.main(["--results", str(left), "--compare", "digits", "toy"]) == 0
    assert "other data" in capsys.readouterr().out
    assert "difference" not in pd.read_csv(left / "tables" / "comparison-digits-toy.csv")


def test_tensorboard_reads_the_written_curves(results, capsys):
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
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
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
