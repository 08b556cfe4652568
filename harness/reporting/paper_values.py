"""What the paper reports, from paper_values.toml: its values, its claims, and its tables as tables of their own."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import HarnessError
from harness.reporting.tables import MISSING, Table

MODELS = {"ic": "iCT-IC", "ot": "iCT-OT", "gc-0.5": "iCT-GC (mu=0.5)", "ect-ic": "ECT-IC", "ect-gc-0.3": "ECT-GC (mu=0.3)"}
_COLUMNS = {"fid": "FID", "kid": "KID x100", "is": "IS", "short": "FID, short", "long": "FID, long"}


@cache
def paper() -> Mapping[str, Any]:
    """The content of paper_values.toml. Raises HarnessError when it is missing or damaged."""
    path = Path(__file__).with_name("paper_values.toml")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HarnessError("the paper's values are missing", where=path) from error
    except tomllib.TOMLDecodeError as error:
        raise HarnessError("the paper's values do not parse", where=path, found=str(error), expected="TOML") from error


def data_name(data: str) -> str:
    """A data set as people write it."""
    return paper()["names"].get(data, data)


def value(experiment: str, data: str, key: str, metric: str) -> tuple[float, float | None] | None:
    """The paper's value and its +-, in the paper's unit; None where it has none."""
    for row in paper().get(experiment, {}).get("rows", ()):
        if row["data"] == data and key in (row.get("model"), row.get("variant")) and metric in row:
            found = row[metric]
            return found[0], (found[1] if len(found) > 1 else None)
    return None


def table(experiment: str) -> Table | None:
    """The paper's own table of that experiment, None if it has none. Its values never share a cell with ours."""
    found = paper().get(experiment)
    if not isinstance(found, dict) or "rows" not in found:
        return None
    metrics = [name for name in _COLUMNS if any(name in row for row in found["rows"])]
    rows: list[tuple[str, ...]] = []
    numbers = []
    data = None
    for row in found["rows"]:
        if row["data"] != data:
            data = row["data"]
            rows.append((data_name(data),))
        label = row.get("label") or MODELS[row["model"]]
        rows.append((label, *(_shown(row[name]) if name in row else MISSING for name in metrics), f"[{row['source']}]"))
        common = {"data": data, "model": label, "source": row["source"]}
        numbers += [common | {"metric": name, "value": row[name][0], "pm": (*row[name], None)[1]} for name in metrics if name in row]
    used = {row["source"] for row in found["rows"]}
    marks = ", ".join(f"[{mark}] {text}" for mark, text in paper()["source"]["marks"].items() if mark in used)
    return Table(
        f"paper-{experiment}",
        f"The paper's {found['title']} (arXiv {paper()['source']['arxiv']}): its data sets, its protocol, for comparison only",
        ("model", *(_COLUMNS[name] for name in metrics), "source"),
        tuple(rows),
        (found["protocol"], marks),
        data=pd.DataFrame(numbers),
    )


def _shown(found: list[float]) -> str:
    return f"{found[0]:.2f} +- {found[1]:.2f}" if len(found) > 1 else f"{found[0]:.2f}"
