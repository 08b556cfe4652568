"""harness why: from a cell of a table to its runs, commits, configs, commands and records."""

from __future__ import annotations

import json
import shlex
import shutil

import pytest
from report_support import make_results, make_run

from harness import cli
from harness.commands import common
from harness.config.experiments import expand
from harness.config.selection import Selection
from harness.reporting.publish import publish
from harness.store.provenance import code


def test_every_seed_is_traced_to_its_evidence(results, capsys):
    assert cli.main(["why", "table1", "digits", "gc", "fid", "--results", str(results)]) == 0
    printed = capsys.readouterr().out
    runs = [run for run in expand("table1", "digits") if run.coupling.kind == "gc"]
    assert len(runs) == 3
    for run in runs:
        assert str(results / "runs" / run.id) in printed
        command = next(line for line in printed.splitlines() if f"harness run {run.id} " in line).partition("again: ")[2]
        again = common.selection(cli.build_parser().parse_args(shlex.split(command)[1:]))
        assert run.id in {selected.id for selected in again.runs()}, "the printed command selects this run"
    commit = f"commit {str(code()['commit'])[:12]}"
    for text in ("own runs", commit, "torch 2.11.0", "AMD EPYC", "command: job", "Student's t", "protocol aaaaaaaaaaaa"):
        assert text in printed


def test_the_records_shown_give_the_number_shown(results, capsys):
    cli.main(["why", "table1", "digits", "iCT-IC", "FID", "--results", str(results)])
    lines = capsys.readouterr().out.splitlines()
    values = [json.loads(line.partition("record: ")[2])["value"] for line in lines if "record: " in line]
    configs = [json.loads(line.partition("config: ")[2]) for line in lines if "config: " in line]
    assert float(lines[1].split(",")[0]) == pytest.approx(sum(values) / 3, rel=1e-5)
    assert [config["seed"] for config in configs] == [0, 1, 2]


def test_published_runs_are_traced_too(results, tmp_path, capsys):
    publish(Selection("table1"), results, tmp_path)
    assert cli.main(["why", "table1", "digits", "ot", "recall", "--results", str(tmp_path)]) == 0
    assert f"published in: {tmp_path / 'published' / 'digits'}" in capsys.readouterr().out


def test_missing_seeds_are_reported(tmp_path, capsys):
    runs = make_results(tmp_path, "table1", "digits")
    shutil.rmtree(tmp_path / "runs" / next(run for run in runs if run.slug == "digits-ic-s1").id)
    assert cli.main(["why", "table1", "digits", "ic", "is", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "2 training seeds" in printed
    assert "not run" in printed


@pytest.mark.parametrize(
    ("arguments", "close"),
    [
        (["table1", "digits", "gcc", "fid"], "gc-0.5"),
        (["table1", "digits", "gc", "fidd"], "fid"),
        (["table1", "digits", "gc", "w2"], "fid"),
        (["tabel1", "digits", "gc", "fid"], "table1"),
        (["table1", "digit", "gc", "fid"], "digits"),
        (["table1", "digits", "gc", "fid", "--data", "mnist"], "digits"),
    ],
)
def test_bad_input_names_the_nearest_choice(results, capsys, arguments, close):
    assert cli.main(["why", *arguments, "--results", str(results)]) == 2
    assert close in capsys.readouterr().err


def test_an_ambiguous_model_lists_the_choices(tmp_path, capsys):
    for run in expand("sweep_mu", "digits", [0]):
        make_run(tmp_path, run)
    assert cli.main(["why", "sweep_mu", "digits", "gc", "fid", "--results", str(tmp_path)]) == 2
    assert "gc-0.1, gc-0.2" in capsys.readouterr().err
    assert cli.main(["why", "sweep_mu", "digits", "gc-0.5", "fid", "--results", str(tmp_path)]) == 0


def test_cells_that_differ_in_settings_are_found_by_their_label(tmp_path, capsys):
    for run in expand("scaling", "digits", [0]):
        make_run(tmp_path, run)
    options = ["fid", "--results", str(tmp_path)]
    assert cli.main(["why", "scaling", "digits", "iCT-IC; 360 rows", *options]) == 0
    (run,) = (run for run in expand("scaling", "digits", [0]) if run.data.limit and run.coupling.kind == "independent")
    printed = capsys.readouterr().out
    assert run.id in printed
    assert "1 training seed" in printed and "1 training seeds" not in printed
    assert cli.main(["why", "scaling", "digits", "gc", *options]) == 2
    assert '"iCT-GC (mu=0.5); 360 rows"' in capsys.readouterr().err
