"""The numbers of an earlier version of this code, kept in tests/golden: run ids of every experiment, and the tables from published records.

A change of layout, names or wording must leave them as they are. tests/golden was written by commit b0cf62a; the verdicts, the intervals of
bounded and of equal values, the best values (which include the final one) and the checks with a tolerance are those of the statistics that
came after it. The numbers of Table 2, of Figure 2 and of claims C5 and C8 are those of the runs that were published when Table 2 got
two-step sampling and EDM2, and Figure 2 three seeds.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from harness.config.experiments import expand
from harness.config.overrides import from_dict

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
RUN_IDS = json.loads((GOLDEN / "run_ids.json").read_text())
TABLES = json.loads(gzip.decompress((GOLDEN / "tables.json.gz").read_bytes()))


@pytest.mark.parametrize("name", RUN_IDS["experiments"])
def test_every_experiment_has_the_same_runs(name):
    experiment, _, scale = name.partition("/")
    assert sorted(run.id for run in expand(experiment, scale)) == sorted(RUN_IDS["experiments"][name])


@pytest.mark.parametrize("scale", RUN_IDS["published"])
def test_published_runs_keep_their_ids(scale):
    published = json.loads((ROOT / "results" / "published" / scale / "runs.json").read_text())["runs"]
    assert set(RUN_IDS["published"][scale]) <= set(published)
    assert [from_dict(published[name]["config"]).id for name in published] == list(published)


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Path:
    """The tables of a report on the published runs of that time."""
    root = tmp_path_factory.mktemp("published-then")
    for scale, names in RUN_IDS["published"].items():
        folder = root / "published" / scale
        shutil.copytree(ROOT / "results" / "published" / scale, folder, ignore=shutil.ignore_patterns("samples", "*.png"))
        content = json.loads((folder / "runs.json").read_text())
        content["runs"] = {name: run for name, run in content["runs"].items() if name in names}
        (folder / "runs.json").write_text(json.dumps(content))
        lines = gzip.decompress((folder / "records.jsonl.gz").read_bytes()).splitlines(keepends=True)
        kept = b"".join(line for line in lines if json.loads(line)["run"] in names)
        (folder / "records.jsonl.gz").write_bytes(gzip.compress(kept))
        for path in (folder / "measured").glob("*.csv"):
            rows = pd.read_csv(path, dtype=str)
            if "run" in rows:
                rows[rows["run"].isna() | rows["run"].isin(names)].to_csv(path, index=False)
    done = subprocess.run([sys.executable, "harness/report.py", "--results", root], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root / "tables"


@pytest.mark.parametrize("name", TABLES)
def test_tables_from_the_published_records_have_the_same_numbers(tables, name):
    with (tables / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    if name == "claims":  # claims may be added
        rows = [row for row in rows if row["claim"] in TABLES[name]["claim"]]
    for column, expected in TABLES[name].items():
        if column == "evidence_numbers":
            texts = [re.sub(r"; harness .*", "", row["evidence"]) for row in rows]  # commands name the results folder
            assert [re.findall(r"[-+]?\d+(?:\.\d+)?(?:e[-+]\d+)?", text) for text in texts] == expected
        elif any(isinstance(value, float) for value in expected):
            values = [float(row[column]) if row[column] not in ("", "True", "False") else None for row in rows]
            assert values == [value if value is None else pytest.approx(value, rel=1e-12, nan_ok=True) for value in expected], column
        else:
            assert [row[column] for row in rows] == expected, column
