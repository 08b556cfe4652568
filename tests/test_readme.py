"""README.md: its tables and figures are those of the published records, so that no number of it goes stale."""

from __future__ import annotations

import re

import numpy as np
import pytest
import readme_blocks
from PIL import Image
from readme_blocks import FIGURES, README, ROOT, SCALE


@pytest.fixture(scope="module")
def records() -> readme_blocks.Published:
    return readme_blocks.published()


@pytest.mark.parametrize("name", ["table1", "claims", "answers", "settings"])
def test_a_block_is_that_of_the_published_records(records, name):
    shown = re.findall(rf"<!-- begin {name} -->\n\n(.*?)\n\n<!-- end {name} -->", README.read_text(), re.DOTALL)
    assert shown == [readme_blocks.blocks(records)[name]], "to write the README again: make readme"


def test_every_number_of_table_1_is_that_of_the_report(records):
    """The printed means against the records themselves, not only against the same printing."""
    text = readme_blocks.table1(records)
    for key, label in (("ic", "iCT-IC"), ("ot", "iCT-OT"), ("gc-0.5", "iCT-GC (mu=0.5)")):
        final = records.loaded.frame[records.loaded.frame.final & (records.loaded.frame.metric == "fid")]
        cell = records.cells("table1").cell(SCALE, key)
        values = final[final.run.isin(list(cell.runs.values()))].value
        (line,) = (line for line in text.splitlines() if line.startswith(f"     {label} "))
        assert line.split(label)[1].split()[:2] == [str(len(values)), f"{values.mean():.3f}"]


def test_the_readme_has_no_number_of_an_own_run(records):
    assert records.loaded.records == "published" and all(entry.source == "published" for entry in records.loaded.runs.values())


def test_the_figures_are_those_of_the_published_records(records, tmp_path):
    readme_blocks.write_figures(records, tmp_path)
    for name in FIGURES.values():
        shown, drawn = (Image.open(folder / name).convert("L") for folder in (ROOT / "results" / "published" / SCALE, tmp_path))
        assert shown.size == drawn.size, "to draw the figures again: make readme"
        assert np.abs(np.asarray(shown, dtype=float) - np.asarray(drawn, dtype=float)).mean() < 1, "to draw the figures again: make readme"
        assert f"results/published/{SCALE}/{name}" in README.read_text()


def test_a_block_is_replaced_and_nothing_else():
    text = "a\n<!-- begin x -->\n\nold \\1\n\n<!-- end x -->\nb\n"
    assert readme_blocks.replaced(text, {"x": "new \\2"}) == "a\n<!-- begin x -->\n\nnew \\2\n\n<!-- end x -->\nb\n"
    with pytest.raises(ValueError, match="y"):
        readme_blocks.replaced(text, {"y": "new"})
