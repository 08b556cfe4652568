"""The paper's values and claims, from paper_values.toml, and the paper's own tables."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import DamagedFile
from harness.reporting.tables import MISSING, Table
from harness.store.files import disk_errors
from harness.store.uncertainty import plus_minus

MODELS = {"ic": "iCT-IC", "ot": "iCT-OT", "gc-0.5": "iCT-GC (mu=0.5)", "ect-ic": "ECT-IC", "ect-gc-0.3": "ECT-GC (mu=0.3)"}
_COLUMNS = {"fid": "FID", "kid": "KID x100", "is": "IS", "short": "FID, short", "long": "FID, long"}


@cache
def paper() -> Mapping[str, Any]:
    """The content of paper_values.toml. Raises HarnessError when it is missing or damaged."""
    path = Path(__file__).with_name("paper_values.toml")
    try:
        with disk_errors(path, "read"):
            return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise DamagedFile("the file of the paper's values is not valid TOML", where=path, found=str(error)) from error


def data_name(data: str) -> str:
    """The printed name of a data set."""
    return str(paper()["names"].get(data, data))


def value(experiment: str, data: str, key: str, metric: str) -> tuple[float, float | None] | None:
    """The paper's value and its +- (None if it states none), in the paper's unit; None without a value. key: a model or a variant."""
    for row in paper().get(experiment, {}).get("rows", ()):
        if row["data"] == data and key in (row.get("model"), row.get("variant")) and metric in row:
            return (*row[metric], None)[:2]
    return None


def text(value: float, pm: float | None = None) -> str:
    """A value as the paper prints it."""
    return plus_minus(value, pm, ".2f", ".2f", "+-")


def table(experiment: str) -> Table | None:
    """The paper's own table of that experiment; None if it has none."""
    content = paper().get(experiment)
    if not isinstance(content, dict) or "rows" not in content:
        return None
    frame = pd.DataFrame(
        {"data": row["data"], "model": row.get("label") or MODELS[row["model"]], "source": row["source"], "metric": metric}
        | {"value": row[metric][0], "pm": (*row[metric], None)[1]}
        for row in content["rows"]
        for metric in _COLUMNS
        if metric in row
    )
    metrics = [name for name in _COLUMNS if name in set(frame.metric)]
    rows: list[tuple[str, ...]] = []
    for data, part in frame.groupby("data", sort=False):
        rows.append((data_name(data),))
        for (model, source), values in part.groupby(["model", "source"], sort=False):
            texts = {row.metric: text(row.value, row.pm) for row in values.itertuples()}
            rows.append((model, *(texts.get(name, MISSING) for name in metrics), f"[{source}]"))
    source = paper()["source"]
    marks = ", ".join(f"[{mark}] {meaning}" for mark, meaning in source["marks"].items() if mark in set(frame.source))
    return Table(
        f"paper-{experiment}",
        f"The paper's {content['title']} (arXiv {source['arxiv']}), on its own data sets and protocol, for comparison only",
        ("model", *(_COLUMNS[name] for name in metrics), "source"),
        tuple(rows),
        (content["protocol"], marks),
        data=frame,
    )
