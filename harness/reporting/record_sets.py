"""Two record sets side by side, with intervals: two scales of one results folder, or two results folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.config.parts import SCALE_NAMES
from harness.data.catalogue import main_metric
from harness.errors import HarnessError, MissingFile
from harness.reporting import load, paper_values
from harness.reporting.cells import Cell, all_cells
from harness.reporting.statistics import Difference, paired, welch
from harness.reporting.tables import MISSING, CellText, Lines, Table, decimals, number
from harness.reporting.values import METRICS, CellValues, Value


@dataclass(frozen=True)
class RecordSet:
    """Cells with their numbers. name: the heading of its column."""

    name: str
    cell_values: CellValues
    cells: tuple[Cell, ...]

    @property
    def data(self) -> list[str]:
        return list(dict.fromkeys(cell.data for cell in self.cells))

    def values(self, data: str) -> Mapping[str, Value]:
        """The main metric of each cell of a data set, of one protocol."""
        return self.cell_values.column([cell for cell in self.cells if cell.data == data], main_metric(data)).cells


def record_set(root: Path, name: str) -> RecordSet:
    """A scale of `root`, or all scales of another results folder. Raises HarnessError when there are no records."""
    is_scale = name in SCALE_NAMES
    folder = root if is_scale else Path(name)
    if not is_scale and not folder.is_dir():
        expected = ", ".join(SCALE_NAMES) + ", or a folder"
        raise MissingFile("neither a scale nor a results folder", where="--compare", found=name, expected=expected)
    loaded = load.read(folder)
    scales = [scale for scale in loaded.scales if not is_scale or scale == name]
    if not scales:
        expected = f"one of {', '.join(loaded.scales) or '(none)'}" if is_scale else "runs/ or published/ with finished runs"
        raise HarnessError("no records to compare", where=folder, found=name, expected=expected)
    return RecordSet(name, CellValues(loaded), tuple(cell for scale in scales for cell in all_cells(scale, loaded).cells))


def comparison(left: RecordSet, right: RecordSet) -> Table:
    """The two sets as a table. On the same data set and protocol the difference is tested, paired by seed where seeds agree."""
    frame = comparison_frame(left, right)
    data_sets = frame[["data_a", "data_b"]].drop_duplicates()
    rows: list[tuple[CellText, ...]] = []
    for names, part in frame.groupby(["data_a", "data_b"], sort=False):
        if len(data_sets) > 1 or names[0] != names[1]:
            rows.append((" and ".join(dict.fromkeys(map(paper_values.data_name, names))),))
        for record in part.to_dict("records"):
            row: dict[str, Any] = {str(key): None if pd.isna(value) else value for key, value in record.items()}
            rows.append((row["model"], _mean(row, "a"), _mean(row, "b"), _difference(row)))
    notes = (
        "mean of FID (W2 for points) over n training seeds at the fixed last step, [95 % interval]; change from iCT-IC of its own set",
        "difference: B - A on one data set and protocol, by seed where both have it (paired t), else Welch's t; alpha = 0.05",
    )
    headers = ("model", f"A: {left.name}", f"B: {right.name}", "B - A")
    data = frame.drop(columns=["change_a", "change_b"], errors="ignore")
    return Table("comparison", f"{left.name} and {right.name} compared", headers, tuple(rows), notes, data=data)


def comparison_frame(left: RecordSet, right: RecordSet) -> pd.DataFrame:
    """One row per data set and model: both means with their intervals, and the difference B - A where it can be tested.

    change_a, change_b: relative difference from iCT-IC of the same set, for the printed table only.
    """
    shared = [data for data in left.data if data in right.data]
    rows = []
    for data in [(name, name) for name in shared] or [(left.data[0], right.data[0])]:
        sides = [side.values(name) for side, name in zip((left, right), data, strict=True)]
        labels = {cell.key: cell.label for side, name in zip((left, right), data, strict=True) for cell in side.cells if cell.data == name}
        for key in [key for key in labels if key in sides[0] or key in sides[1]]:
            row: dict[str, Any] = {"model": labels[key], "key": key, "data_a": data[0], "data_b": data[1]}
            for letter, values in zip("ab", sides, strict=True):
                if key in values:
                    row |= {f"{name}_{letter}": entry for name, entry in _side(values[key], values.get("ic")).items()}
            if data[0] == data[1] and (difference := _test(sides[0].get(key), sides[1].get(key))):
                row |= {"difference": difference.mean, "low": difference.low, "high": difference.high, "p": difference.p}
            rows.append(row)
    return pd.DataFrame(rows)


def _side(value: Value, independent: Value | None) -> dict[str, Any]:
    mean = value.interval
    entries = {"metric": value.metric, "mean": mean.mean, "low": mean.low, "high": mean.high, "seeds": mean.n, "protocol": value.protocol}
    change = paired(value.values, independent.values) if independent and independent is not value else None
    return entries | ({"change": change.relative} if change else {})


def _test(left: Value | None, right: Value | None) -> Difference | None:
    """Right - left; None where one is missing or their protocols differ."""
    if left is None or right is None or left.protocol != right.protocol:
        return None
    if len(left.values.keys() & right.values.keys()) > 1:
        return paired(right.values, left.values)
    return welch(list(right.values.values()), list(left.values.values()))


def _mean(row: Mapping[str, Any], side: str) -> CellText:
    mean, low, high = (row.get(f"{name}_{side}") for name in ("mean", "low", "high"))
    if mean is None:
        return MISSING
    factor, places = METRICS[row[f"metric_{side}"]].factor, max(2, min(4, decimals([mean])))
    interval = "" if low is None or high is None else f" [{number(low * factor, places)}, {number(high * factor, places)}]"
    change = row.get(f"change_{side}")
    relative = "" if change is None else f", {change:+.0%} against IC"
    return Lines(number(mean * factor, places) + interval, f"n={row[f'seeds_{side}']:.0f}{relative}")


def _difference(row: Mapping[str, Any]) -> CellText:
    if row.get("difference") is None:
        both = row.get("mean_a") is not None and row.get("mean_b") is not None
        return "other data" if row["data_a"] != row["data_b"] else "other protocol" if both else MISSING
    interval = "" if row["low"] is None else f" [{row['low']:+.3g}, {row['high']:+.3g}]"
    return Lines(f"{row['difference']:+.3g}{interval}", "one seed: no test" if row["p"] is None else f"p = {row['p']:.2g}")
