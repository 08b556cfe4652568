"""Formatting of tables: the same cells in the terminal, Markdown, LaTeX and CSV."""

from __future__ import annotations

import io
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from harness.reporting import paper_values, tables
from harness.reporting.checks import checks_table
from harness.reporting.load import LoadedResults
from harness.reporting.overview import ledger_table
from harness.reporting.tables import Lines, Table, decimals, number
from harness.store import measurements
from harness.store.measurements import MeasurementRow

PAPER = Table("paper", "The paper's", ("model", "FID"), (("iCT-IC", "7.42 +- 0.04"),))
TABLE = Table(
    "demo",
    "Demo: mu = 0.5 & 50 % of #1_a",
    ("model", "FID", "KID x100"),
    (("CIFAR-10",), ("iCT-GC (mu=0.5)", Lines("5.95", "[5.9, 6.0]\nsd 0.05"), "-"), ("a | b", "1", "2"), ("noise", "0.1", "0.2")),
    ("a note",),
    frozenset({3}),
    pd.DataFrame([{"model": "iCT-GC", "mean": 5.95}]),
    (PAPER,),
)


def terminal(table: Table, width: int = 100) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=width).print(tables.terminal(table))
    return buffer.getvalue()


def test_terminal_shows_every_cell_and_the_table_below():
    text = terminal(TABLE)
    for part in ("Demo", "CIFAR-10", "iCT-GC (mu=0.5)", "5.95", "[5.9, 6.0]", "sd 0.05", "a note", "The paper's", "7.42 +- 0.04"):
        assert part in text


def test_markdown_rows_have_as_many_cells_as_headers():
    lines = [line for line in tables.markdown(TABLE).splitlines() if line.startswith("|")]
    counts = [len(re.split(r"(?<!\\)\|", line)) - 2 for line in lines]
    assert counts == [3] * 6 + [2] * 3
    assert "5.95<br>[5.9, 6.0]<br>sd 0.05" in lines[3]
    assert "μ=0.5" in lines[3]


def test_latex_rows_have_as_many_cells_as_columns():
    text = tables.latex(TABLE)
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\begin{table}") == 2
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].replace(r"\\ {\scriptsize", "{")
    rows = [row for row in body.split(r"\\") if row.strip() and "multicolumn" not in row]
    assert [len(re.split(r"(?<!\\)&", row)) for row in rows] == [3, 3, 3]
    assert r"$\mu$=0.5" in text
    assert r"50 \% of \#1\_a" in text


def test_latex_captions_are_the_title_and_notes_stand_below_the_tabular():
    text = tables.latex(TABLE)
    assert r"\caption{Demo: $\mu$ = 0.5 \& 50 \% of \#1\_a.}" in text
    assert text.index(r"\end{tabular}") < text.index("a note.") < text.index(r"\end{table}")


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=40))
def test_latex_text_never_lets_a_special_character_through(text):
    escaped = tables.latex_text(text)
    assert escaped.isascii()
    plain = re.sub(r"\\textasciitilde\{\}|\\\^\{\}|\$\\[a-z]+\$|\$[<>]\$|\$\\\|x-z\\\|\^2\$|\\[&%_#${}]", "", escaped)
    assert not set("&%_#${}~^\\") & set(plain)


def test_csv_is_the_tidy_numbers(tmp_path):
    paths = {path.suffix: path for path in tables.write(TABLE, tmp_path / "tables")}
    assert set(paths) == {".md", ".tex", ".csv"}
    assert pd.read_csv(paths[".csv"]).to_dict("records") == [{"model": "iCT-GC", "mean": 5.95}]


@pytest.mark.parametrize(("value", "places", "text"), [(1.005, 1, "1.0"), (-0.001, 2, "0.00"), (-1.5, 1, "-1.5")])
def test_numbers_have_fixed_decimals_and_no_negative_zero(value, places, text):
    assert number(value, places) == text


def test_decimals_keep_three_digits_of_the_smallest():
    assert [decimals([value]) for value in (123.4, 12.3, 1.23, 0.0123)] == [0, 1, 2, 4]


@pytest.mark.parametrize("name", ["table1", "table2", "table3"])
def test_the_papers_tables_have_a_source_in_every_row(name):
    table = paper_values.table(name)
    rows = [row for row in table.rows if len(row) > 1]
    assert rows
    assert all(row[-1] in ("[P]", "[S]", "[E]") for row in rows)
    assert all(note for note in table.notes)


def test_an_experiment_without_a_paper_table_has_none():
    assert paper_values.table("sweep_mu") is None


def test_the_ledger_states_each_switch_and_its_meaning():
    rows = {row[0]: row[1:] for row in ledger_table(LoadedResults(root=None)).rows}
    assert rows["mu"] == ("mu = P(GC).", "the released code's key, which is P(IC).")
    assert all(all(row) for row in rows.values())


def test_measurements_come_back_as_written(tmp_path):
    rows = [MeasurementRow("rtil", "digits", 4.81, "ic", x=1.0, se=0.014, truth=4.8)]
    measurements.write(tmp_path, "digits", "figure2", rows)
    frame = measurements.read(tmp_path, [])
    assert frame[["scale", "quantity", "value", "truth"]].to_dict("records") == [
        {"scale": "digits", "quantity": "rtil", "value": 4.81, "truth": 4.8}
    ]
    assert frame.case.tolist() == [""]


def test_measured_here_replaces_published_and_damage_is_named(tmp_path):
    folder = tmp_path / "published" / "digits" / "measured"
    folder.mkdir(parents=True)
    (folder / "figure2.csv").write_text("quantity,data,value\nrtil,digits,1\n")
    (folder / "figure3.csv").write_text("quantity,data,value\ncost,digits,2\ncost,digits,\n")
    (folder / "broken.csv").write_text("a,b\n1,2\n")
    measurements.write(tmp_path, "digits", "figure2", [MeasurementRow("rtil", "digits", 3.0)])
    damage: list[str] = []
    assert measurements.read(tmp_path, damage).value.tolist() == [3.0, 2.0]
    assert len(damage) == 2
    assert any("broken.csv" in text for text in damage)


def checks(root, rows: list[dict]) -> Table:
    """The table of checks of these rows."""
    measurements.write(root, "digits", "theory", [MeasurementRow(**{"data": "digits", "coupling": "ic", **row}) for row in rows])
    return checks_table(measurements.read(root, []))


def test_checks_state_what_agrees_and_what_does_not(tmp_path):
    lemma = {"quantity": "lemma1", "se": 0.1}
    rows = [{**lemma, "x": 1.0, "value": 1.2, "truth": 1.0}, {**lemma, "x": 2.0, "value": 1.5, "truth": 1.0}]
    rows += [{"quantity": "theorem1", "se": 0.1, "x": n, "value": 1 + 4 / n, "truth": 1.0} for n in (8.0, 4096.0)]
    table = checks(tmp_path, rows)
    assert table.data.agrees.tolist() == [True, False, True]
    assert [row[-1] for row in table.rows] == ["agrees", "off by 50% (5 errors)", "agrees"]
    assert table.data.errors_away.tolist() == pytest.approx([2.0, 5.0, 4 / 4096 / 0.1])


def test_an_error_with_a_tolerance_is_judged_by_it(tmp_path):
    errors = [
        {"quantity": "oracle-error", "x": t, "value": value, "truth": 0.0, "truth_se": 1e-5 / 3} for t, value in ((1, 9e-6), (5, 2e-5))
    ]
    table = checks(tmp_path, errors)
    assert table.data.agrees.tolist() == [True, False]
    assert [row[-1] for row in table.rows] == ["within the tolerance", "above the tolerance"]
    assert all("1e-05" in row[3] for row in table.rows)
    assert table.data.tolerance.tolist() == pytest.approx([1e-5, 1e-5])


def test_a_number_without_an_error_has_no_verdict(tmp_path):
    table = checks(tmp_path, [{"quantity": "exact-cost", "x": 1.0, "value": 2.0, "truth": 2.5}])
    assert table.data.agrees.isna().all()
    assert "no error known" in table.rows[0][-1]
    assert not re.search("nan", " ".join(map(str, table.rows[0])))


@pytest.mark.parametrize("truth", [0.0, 9.5e-15, 1e-9, -1e-300])
def test_no_percentage_of_almost_nothing(tmp_path, truth):
    verdict = checks(tmp_path, [{"quantity": "rtil", "x": 0.1, "value": 28.9, "se": 0.1, "truth": truth}]).rows[0][-1]
    assert verdict == "off by 28.9 (289 errors)"


def test_checks_say_how_many_rows_chance_puts_outside(tmp_path):
    rows = [{"quantity": "lemma1", "x": float(i), "value": 1.0 + (i < 2), "se": 0.1, "truth": 1.0} for i in range(1000)]
    rows.append({"quantity": "rtil", "x": 1.0, "value": 9.0, "se": 0.1, "truth": 1.0, "run": "digits-ic-s0-0123456789ab", "seed": 0})
    notes = checks(tmp_path, rows).notes
    assert "1000 rows" in notes[0] and "2 lie outside" in notes[0] and "2.7" in notes[0]
    assert "trained denoiser (1 row)" in notes[1]
