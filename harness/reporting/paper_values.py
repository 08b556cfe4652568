"""The paper's values and claims, from paper_values.toml, and the paper's own tables."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from harness.errors import DamagedFile
from harness.reporting.tables import MISSING, Table
from harness.stats.uncertainty import plus_minus
from harness.store.files import disk_errors

PATH = Path(__file__).with_name("paper_values.toml")
MAIN_DATA = "cifar10"
"""The paper's main data set."""
MODELS = {
    "ic": "iCT-IC",
    "ot": "iCT-OT",
    "gc-0.5": "iCT-GC (mu=0.5)",
    "ect-ic": "ECT-IC",
    "ect-gc-0.3": "ECT-GC (mu=0.3)",
    "ecm": "ECM (IC)",
}
_COLUMNS = {
    "fid": "FID",
    "kid": "KID x100",
    "is": "IS",
    "short": "FID, short",
    "long": "FID, long",
    "long/2-steps": "FID, long, 2 steps",
}


@cache
def paper() -> Mapping[str, Any]:
    """The content of paper_values.toml. Raises HarnessError when it is missing or damaged."""
    try:
        with disk_errors(PATH, "read"):
            return tomllib.loads(PATH.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise DamagedFile("the file of the paper's values is not valid TOML", where=PATH, found=str(error)) from error


def data_name(data: str) -> str:
    """The printed name of a data set."""
    return str(paper()["names"].get(data, data))


def value(experiment: str, data: str, key: str, metric: str) -> tuple[float, float | None] | None:
    """The paper's value and its +- (None if it states none), in the paper's unit; None without a value. key: a model or a variant."""
    for row in paper().get(experiment, {}).get("rows", ()):
        if row["data"] == data and key in (row.get("model"), row.get("variant")) and metric in row:
            return (*row[metric], None)[:2]
    return None


def effect(experiment: str, data: str, left: str, right: str, metric: str = "fid") -> tuple[float, str] | None:
    """The paper's relative difference (left - right) / right in a metric, and the data set it is on: `data`, else MAIN_DATA.

    left, right: keys as `value` takes them. None where the paper gives no numbers.
    """
    for name in (data, MAIN_DATA):
        values = [value(experiment, name, key, metric) for key in (left, right)]
        if values[0] and values[1]:
            return values[0][0] / values[1][0] - 1, name
    return None


def text(value: float, pm: float | None = None) -> str:
    """A value as the paper prints it."""
    return plus_minus(value, pm, ".2f", ".2f", "+-")


def table(experiment: str) -> Table | None:
    """The paper's own table of that experiment; None if it has none."""
    content = paper().get(experiment)
    if not isinstance(content, dict) or "rows" not in content:
        return None
    metrics = [name for name in _COLUMNS if any(name in entry for entry in content["rows"])]
    rows: list[tuple[str, ...]] = []
    for data, entries in groupby(content["rows"], key=itemgetter("data")):
        rows.append((data_name(data),))
        for entry in entries:
            values = [text(*entry[name]) if name in entry else MISSING for name in metrics]
            rows.append((entry.get("label") or MODELS[entry["model"]], *values, f"[{entry['source']}]"))
    source = paper()["source"]
    used = {entry["source"] for entry in content["rows"]}
    marks = ", ".join(f"[{mark}] {meaning}" for mark, meaning in source["marks"].items() if mark in used)
    title = f"The paper's {content['title']} (arXiv {source['arxiv']}), on its own data sets and protocol, for comparison only"
    headers = ("model", *(_COLUMNS[name] for name in metrics), "source")
    remarks = [f"{data_name(e['data'])}, {e.get('label') or MODELS[e['model']]}: {e['remark']}" for e in content["rows"] if "remark" in e]
    return Table(f"paper-{experiment}", title, headers, tuple(rows), (content["protocol"], marks, *remarks))
