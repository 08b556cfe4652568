"""`harness new experiment`: the file that it writes can be planned, and its table and figures come by themselves."""

from __future__ import annotations

import pytest
from report_support import make_results

from harness.cli import main
from harness.config import experiments
from harness.reporting import load, produce
from harness.reporting.figure_requests import ABLATIONS, FIGURES_OF_THEIR_OWN


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_EXPERIMENTS", str(tmp_path / "experiments"))
    (tmp_path / "experiments").mkdir()
    return tmp_path


def test_the_written_file_is_an_experiment_with_table_and_figures(folder, capsys):
    assert main(["new", "experiment", "my-idea"]) == 0
    assert "harness plan my_idea" in capsys.readouterr().out
    runs = experiments.expand("my_idea", "digits")
    assert len(runs) == 18 and len({run.id for run in runs}) == 18
    assert {run.ema.rate for run in runs} == {0.998, 0.999}
    make_results(folder / "results", "my_idea", "digits")
    assert produce.everything(folder / "results", "digits") == 0
    table = (folder / "results" / "tables" / "my_idea-digits.md").read_text()
    assert "My idea" in table and "EMA" in table
    drawn = {path.stem for path in (folder / "results" / "figures").glob("*.png")}
    assert {"my_idea-digits", "my_idea-training-digits"} <= drawn
    assert load.read(folder / "results").damage == []


def test_every_experiment_of_the_project_has_its_kind_of_figure():
    """So that none of them is taken for a user's."""
    assert set(experiments.names()) == FIGURES_OF_THEIR_OWN | ABLATIONS.keys()


@pytest.mark.parametrize("name", ["table1", "", "1st", "a b", "../x", "x" * 61, "import", "é"])
def test_a_name_that_cannot_be_used(folder, capsys, name):
    (folder / "experiments" / "table1.py").write_text("")
    assert main(["new", "experiment", name]) == 2
    assert "name" in capsys.readouterr().err
    assert [path.name for path in (folder / "experiments").iterdir()] == ["table1.py"]


def test_a_folder_that_may_not_be_written(folder, capsys, monkeypatch):
    monkeypatch.setenv("HARNESS_EXPERIMENTS", "/proc")
    assert main(["new", "experiment", "mine"]) == 2
    assert "/proc" in capsys.readouterr().err
