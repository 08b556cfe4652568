"""Publishing: without the run folders, published records give the same report."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from report_support import make_results, make_run

from harness import cli
from harness.config.experiments import expand
from harness.config.selection import Selection
from harness.reporting import load
from harness.reporting.cells import experiment_cells
from harness.reporting.experiment_table import experiment_table
from harness.reporting.publish import publish
from harness.reporting.values import CellValues
from harness.store import measurements
from harness.store.measurements import MeasurementRow


def table(root: Path, scale: str = "digits") -> pd.DataFrame:
    loaded = load.read(root)
    data = experiment_table(experiment_cells(Selection("table1", scale), loaded), CellValues(loaded)).data
    return data.drop(columns="records", errors="ignore")  # own or published


@pytest.fixture
def results(tmp_path) -> Path:
    make_results(tmp_path / "results", "table1", "digits")
    return tmp_path / "results"


def test_the_same_table_without_the_runs(results, capsys):
    before = table(results)
    measurements.write(results, "digits", "figure2", [MeasurementRow("rtil", "digits", 4.8, "ic", x=1.0)])
    assert cli.main(["publish", "table1", "--results", str(results), "--scale", "digits"]) == 0
    assert "9 runs of table1 published" in capsys.readouterr().out
    for name in ("runs", "measured"):
        shutil.rmtree(results / name)
    pd.testing.assert_frame_equal(table(results), before)
    assert measurements.read(results, []).value.tolist() == [4.8]
    assert cli.main(["report", "--results", str(results)]) == 0
    assert (results / "figures" / "figure8-digits.png").exists()


def test_what_is_published_is_small_and_names_no_one(results):
    publish(Selection("table1"), results)
    where = results / "published" / "digits"
    assert sum(path.stat().st_size for path in where.rglob("*") if path.is_file()) < 300_000
    facts = json.loads((where / "runs.json").read_text())["runs"]
    assert len(facts) == 9
    text = (where / "runs.json").read_text()
    for private in ('"ada"', '"node1"', str(results)):  # in quotes, since the digits of a commit may contain ada
        assert private not in text
    attempt = next(iter(facts.values()))["attempts"][0]
    assert attempt["commit"]
    assert attempt["versions"]["torch"] == "2.11.0"
    assert attempt["command"].startswith("job results/runs/")
    assert len(list((where / "samples").iterdir())) == 3
    (baselines,) = (where / "baselines").iterdir()
    content = json.loads(baselines.read_text())
    assert content["rows"] and content["provenance"].keys() == {"commit", "dirty", "command"} and str(results) not in baselines.read_text()


def test_publishing_again_changes_no_byte_and_other_experiments_stay(results):
    publish(Selection("table1"), results)
    where = results / "published" / "digits"
    before = {path: path.read_bytes() for path in where.rglob("*") if path.is_file()}
    publish(Selection("table1"), results)
    assert {path: path.read_bytes() for path in where.rglob("*") if path.is_file()} == before
    (extra,) = (run for run in expand("sweep_mu", "digits", [0]) if run.slug == "digits-gc-1-s0")
    make_run(results, extra)
    shutil.rmtree(results / "runs" / expand("table1", "digits")[0].id)
    publish(Selection("sweep_mu"), results)
    assert len(json.loads((where / "runs.json").read_text())["runs"]) == 10


def test_only_final_class_shares_are_kept(results):
    publish(Selection("table1"), results)
    rows = [json.loads(line) for line in gzip.decompress((results / "published" / "digits" / "records.jsonl.gz").read_bytes()).splitlines()]
    shares = [row for row in rows if row["metric"].startswith("class_share/")]
    assert len(shares) == 90
    assert all(row["final"] for row in shares)


def test_unfinished_runs_stay_unpublished_and_a_finished_published_one_counts(results, tmp_path):
    runs = expand("table1", "digits")
    publish(Selection("table1"), results)
    (results / "runs" / runs[0].id / "result.json").unlink()
    summary = publish(Selection("table1"), results)
    assert not any(runs[0].id in line for line in summary), "it is published, finished, already"
    loaded = load.read(results, "both")
    assert loaded.runs[runs[0].id].source == "published"
    assert len(loaded.frame[loaded.frame.run == runs[0].id]) > 0
    assert not loaded.frame.duplicated(["run", "step", "metric", "final"]).any()


def test_nothing_finished_is_an_error(tmp_path, capsys):
    make_run(tmp_path, expand("table1", "digits", [0])[0], done=False)
    assert cli.main(["publish", "table1", "--results", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "1 unfinished" in message
    assert f"harness sweep table1 --results {tmp_path}" in message, "the command that finishes them can be pasted"
    assert not (tmp_path / "published").exists()


def test_damaged_published_records_are_not_overwritten(results, capsys):
    publish(Selection("table1"), results)
    path = results / "published" / "digits" / "records.jsonl.gz"
    path.write_bytes(path.read_bytes()[:100])
    assert cli.main(["publish", "table1", "--results", str(results)]) == 2
    assert str(path) in capsys.readouterr().err
    assert path.stat().st_size == 100
    shutil.rmtree(results / "runs")
    loaded = load.read(results)
    assert not loaded.runs
    assert any("published" in text for text in loaded.damage)


def published_files(results: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (results / "published").rglob("*") if path.is_file()}


def published_counts(results: Path, scale: str = "digits") -> Counter[str]:
    text = gzip.decompress((results / "published" / scale / "records.jsonl.gz").read_bytes())
    return Counter(json.loads(line)["run"] for line in text.splitlines())


def test_fewer_records_than_published_are_refused_until_told_to_replace(results, tmp_path, capsys):
    publish(Selection("table1"), results)
    before, counts = published_files(results), published_counts(results)
    (first, second, third, *_) = expand("table1", "digits")
    path = results / "runs" / first.id / "records.jsonl"
    rows = [row for row in path.read_text().splitlines() if "class_share/" not in row]
    path.write_text("\n".join(rows[:20] + rows[:10]) + "\n")  # 20 records, ten of them twice
    (results / "runs" / second.id / "records.jsonl").unlink()
    assert cli.main(["publish", "table1", "--results", str(results)]) == 2
    message = capsys.readouterr().err
    assert f"{first.id}: 20 records, published {counts[first.id]}" in message
    assert f"{second.id}: 0 records, published {counts[second.id]}" in message
    assert third.id not in message and f"harness publish table1 --results {results} --replace" in message
    assert published_files(results) == before
    assert cli.main(["publish", "table1", "--results", str(results), "--replace"]) == 0
    after = published_counts(results)
    assert after[first.id] == 20 and after[second.id] == 0 and after[third.id] == counts[third.id]


def test_published_records_of_unlisted_runs_are_not_dropped(results, capsys):
    publish(Selection("table1"), results)
    runs, counts = expand("table1", "digits"), published_counts(results)
    path = results / "published" / "digits" / "runs.json"
    path.unlink()
    path.with_name("digests.json").unlink()  # as published before there were checksums
    shutil.rmtree(results / "runs" / runs[0].id)
    before = published_files(results)
    assert cli.main(["publish", "table1", "--results", str(results)]) == 2
    message = capsys.readouterr().err
    assert f"{runs[0].id}: 0 records, published {counts[runs[0].id]}" in message and "--replace" in message
    assert runs[1].id not in message, "its run folder still has the records"
    assert published_files(results) == before
    publish(Selection("table1"), results, replace=True)
    assert len(json.loads(path.read_text())["runs"]) == len(published_counts(results)) == 8


def test_the_command_that_replaces_names_the_folder(results, tmp_path, capsys):
    elsewhere = tmp_path / "my copy"
    publish(Selection("table1"), results, elsewhere)
    (run, *_) = expand("table1", "digits")
    (results / "runs" / run.id / "records.jsonl").write_text("")
    assert cli.main(["publish", "table1", "--results", str(results), "--to", str(elsewhere)]) == 2
    (again,) = re.findall(r"harness (publish .*)", capsys.readouterr().err)
    assert cli.main(shlex.split(again)) == 0


def test_one_damaged_published_run_is_named_and_the_others_stay(results):
    publish(Selection("table1"), results)
    shutil.rmtree(results / "runs")
    path = results / "published" / "digits" / "runs.json"
    facts = json.loads(path.read_text())
    name = next(iter(facts["runs"]))
    facts["runs"][name]["config"]["train"]["lr"] = -1
    path.write_text(json.dumps(facts))
    loaded = load.read(results)
    assert len(loaded.runs) == 8
    assert any(name in text for text in loaded.damage)


def test_too_much_is_refused_before_anything_is_written(results, monkeypatch, capsys):
    monkeypatch.setattr("harness.reporting.publish.MOST_BYTES", 100)
    assert cli.main(["publish", "table1", "--results", str(results)]) == 2
    assert str(results / "published" / "digits") in capsys.readouterr().err
    assert not (results / "published").exists()
