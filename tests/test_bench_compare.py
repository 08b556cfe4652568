"""What harness bench writes, prints and compares."""

from __future__ import annotations

import json
import math
import random

import pytest

from harness import cli
from harness.bench import compare, files, printing
from harness.bench.files import Results
from harness.bench.rows import Row, row
from harness.errors import HarnessError


def results(seed: int, slower: float = 1.0, **about) -> Results:
    """A ratio that changed by `slower`, one that did not, a single value, and a share that may be negative."""
    draw = random.Random(seed)
    rows = [
        row("steps", "digits", "changed", "x", [2 * slower * math.exp(draw.gauss(0, 0.02)) for _ in range(8)], "at least 1"),
        row("steps", "digits", "same", "x", [3 * math.exp(draw.gauss(0, 0.02)) for _ in range(8)]),
        row("memory", "digits", "once", "MiB", [500.0 * slower]),
        row("transport", "digits", "share", "%", [0.01 * draw.gauss(0, 1) for _ in range(8)]),
    ]
    return Results({"device": "CPU", "threads": 1, "torch": "2", "commit": "abc"} | about, rows, ["a note"])


def test_what_changed_is_found_with_its_size():
    found = {change.new.name: change for change in compare.changes(results(1), results(2, slower=1.25))}
    assert found["changed"].outcome == "changed" and math.isclose(found["changed"].factor, 1.25, rel_tol=0.05)
    low, high = found["changed"].low_high
    assert low < found["changed"].factor < high and high - low < 0.1
    assert found["same"].outcome == "no change shown" and found["same"].low_high[0] < 1 < found["same"].low_high[1]
    assert found["once"].outcome == "not tested" and math.isclose(found["once"].factor, 1.25) and found["once"].low_high is None
    assert found["share"].factor is None and abs(found["share"].difference.mean) < 0.02


def test_equal_benchmarks_rarely_differ():
    """Of 200 comparisons of two benchmarks without a change, Holm's method leaves about 5 % with any change."""
    changed = sum(any(c.outcome == "changed" for c in compare.changes(results(2 * i), results(2 * i + 1))) for i in range(200))
    assert changed <= 20


def test_a_file_keeps_every_value(tmp_path):
    path = tmp_path / "new" / "bench.json"
    files.write(path, results(1))
    again = files.read(path)
    assert list(again.rows) == list(results(1).rows) and again.notes == ["a note"] and again.about["commit"] == "abc"
    stored = json.loads(path.read_text())["rows"][0]
    middle = results(1).rows[0].median
    assert (stored["median"], stored["low"], stored["high"], stored["n"]) == (middle.median, middle.low, middle.high, 8)


@pytest.mark.parametrize(
    "damage", ["{", '{"format": 1}', '{"format": 7, "about": {}, "rows": []}', '{"format": 1, "about": {}, "rows": [3]}']
)
def test_a_file_that_is_no_benchmark_is_refused(damage, tmp_path, capsys):
    path = tmp_path / "old.json"
    path.write_text(damage)
    assert cli.main(["bench", "--compare", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_values_that_are_no_numbers_are_refused(tmp_path):
    path = tmp_path / "old.json"
    files.write(path, results(1))
    for bad in ([], ["1"], [None], "1"):
        content = json.loads(path.read_text())
        content["rows"][1]["values"] = bad
        path.write_text(json.dumps(content))
        with pytest.raises(HarnessError) as error:
            files.read(path)
        assert error.value.details["found"] == "row 2"


def test_two_files_are_compared_without_measuring(tmp_path, capsys):
    files.write(tmp_path / "a.json", results(1))
    files.write(tmp_path / "b.json", results(2, slower=1.25, device="GPU"))
    assert cli.main(["bench", "--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if " changed " in line]
    assert any("1.25" in line or "1.24" in line or "1.26" in line for line in lines)
    assert "1 of 3 ratios changed" in printed and "elsewhere" in printed


def test_a_table_of_the_breakdown_has_a_column_for_each_call():
    rows = [
        Row("breakdown", "digits", f"{call}: {stage}", "%", (share,)) for call, stage, share in (("IC", "EMA", 0.25), ("GC", "data", 0.5))
    ]
    table = printing.part_table(rows)
    assert [column.header for column in table.columns] == ["% of a step", "digits: IC", "digits: GC"]
    assert [list(column.cells) for column in table.columns] == [["EMA", "data"], ["25.0", "-"], ["-", "50.0"]]
