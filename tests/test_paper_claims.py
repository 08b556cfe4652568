"""The claims of paper_values.toml are checked when they are read."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import cli
from harness.config.experiments import names
from harness.errors import HarnessError
from harness.reporting import claims, paper_claims, paper_values

FILE = Path("claims.toml")
C1 = {"id": "C1", "text": "FID of GC is below IC's", "figure": "Table 1", "judge": "better", "experiment": "table1"}
C1 |= {"left": "gc-0.5", "right": ["ic"]}


def without(key: str) -> dict:
    return {name: value for name, value in C1.items() if name != key}


@pytest.mark.parametrize(
    ("entry", "facts"),
    [
        (C1 | {"judge": "beter"}, ["C1", "judge", "beter", "better", "rebound"]),
        (C1 | {"judge": 3}, ["C1", "judge", "3"]),
        (C1 | {"judge": ["better"]}, ["C1", "judge", "better"]),
        (C1 | {"margn": 0.1}, ["C1", "margn", "margin"]),
        (C1 | {"margin": 0}, ["C1", "margin", "0", "greater than 0"]),
        (C1 | {"margin": -0.05}, ["C1", "margin", "-0.05", "greater than 0"]),
        (C1 | {"margin": 5}, ["C1", "margin", "5", "less than 1"]),
        (C1 | {"margin": float("nan")}, ["C1", "margin", "nan"]),
        (C1 | {"margin": "wide"}, ["C1", "margin", "wide", "number"]),
        (C1 | {"mu": 0.5}, ["C1", "mu", "right"]),
        (without("left"), ["C1", "left"]),
        (without("judge"), ["C1", "judge"]),
        (without("id"), ["number 1", "id"]),
    ],
)
def test_a_claim_that_is_stated_wrongly_is_one_message(entry, facts):
    with pytest.raises(HarnessError) as caught:
        paper_claims.read([entry], FILE)
    text = str(caught.value)
    assert all(fact in text for fact in [str(FILE), *facts]), text


def test_an_id_is_used_once():
    with pytest.raises(HarnessError, match="same id"):
        paper_claims.read([C1, C1], FILE)


def test_a_file_without_claims_is_refused():
    with pytest.raises(HarnessError, match="no claims"):
        paper_claims.read([], FILE)


def test_defaults_and_arguments():
    (claim,) = paper_claims.read([C1], FILE)
    assert (claim.margin, claim.left, claim.right, claim.left_out) == (0.05, "gc-0.5", ("ic",), ())
    (claim,) = paper_claims.read([C1 | {"margin": 0.01}], FILE)
    assert claim.margin == 0.01


def test_the_claims_of_the_paper_name_known_judges_and_experiments():
    assert set(paper_claims.KINDS) == set(claims.JUDGES)
    assert [claim.id for claim in paper_claims.claims()] == [f"C{i}" for i in range(1, 14)]
    assert {claim.experiment for claim in paper_claims.claims()} <= set(names())


@pytest.fixture
def claim_file(tmp_path, monkeypatch) -> Iterator[Path]:
    """A copy of paper_values.toml that is read in its place."""
    path = tmp_path / "paper_values.toml"
    path.write_text(paper_values.PATH.read_text())
    monkeypatch.setattr(paper_values, "PATH", path)
    for cached in (paper_values.paper, paper_claims.claims):
        cached.cache_clear()
    yield path
    for cached in (paper_values.paper, paper_claims.claims):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("before", "after"), [('judge = "frozen"', 'judge = "frosen"'), ('judge = "band"', 'judge = "band"\nmargin = "5 %"')]
)
def test_a_report_with_a_wrong_claim_ends_with_2_and_one_message(claim_file, tmp_path, capsys, before, after):
    text = claim_file.read_text()
    assert before in text
    claim_file.write_text(text.replace(before, after, 1))
    assert tomllib.loads(claim_file.read_text())
    assert cli.main(["report", "table1", "--results", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert str(claim_file) in message
    assert "Traceback" not in message
    assert message.count("where:") == 1
