"""Compares two sides, each a scale of the results folder, one of its sets of records, or another results folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from harness.config.identity import short_hash
from harness.config.parts import SCALE_NAMES
from harness.data.catalogue import main_metric
from harness.errors import HarnessError, MissingFile
from harness.reporting import load, paper_values
from harness.reporting.cells import Cell, all_cells
from harness.reporting.tables import MISSING, CellText, Lines, Table, decimals, number, p_text, signed
from harness.reporting.values import METRICS, CellValues, Value
from harness.stats.differences import PAIRED, Difference, paired, unpaired
from harness.store.records import RECORD_SETS, RecordSet


@dataclass(frozen=True)
class Side:
    """Cells with their values. name: the heading of its column."""

    name: str
    cell_values: CellValues
    cells: tuple[Cell, ...]

    @property
    def slug(self) -> str:
        """The name for a file name: of a folder its last part, with a hash of the whole."""
        return self.name if self.name in (*SCALE_NAMES, *RECORD_SETS) else f"{Path(self.name).name}-{short_hash(self.name, 6)}"

    @property
    def text(self) -> str:
        """The name and the set of records, in words."""
        label = self.cell_values.loaded.label
        return label if self.name in RECORD_SETS else f"{self.name}, {label}"

    @property
    def data(self) -> list[str]:
        return list(dict.fromkeys(cell.data for cell in self.cells))

    def values(self, data: str) -> Mapping[str, Value]:
        """The main metric of each cell of a data set, of one protocol."""
        return self.cell_values.column([cell for cell in self.cells if cell.data == data], main_metric(data)).cells


def side(root: Path, name: str, records: RecordSet | None = None) -> Side:
    """A scale of `root`, a set of records of `root` ("own"), or all scales of another results folder; of these `records` unless named.

    Raises HarnessError when there are no records.
    """
    is_scale = name in SCALE_NAMES
    chosen = next((known for known in RECORD_SETS if name == known), None)
    folder = root if is_scale or chosen else Path(name)
    if not folder.is_dir() and not is_scale:
        expected = ", ".join((*SCALE_NAMES, *RECORD_SETS)) + ", or a folder"
        raise MissingFile("neither a scale, nor a set of records, nor a results folder", where="--compare", found=name, expected=expected)
    loaded = load.read(folder, chosen or records, name if is_scale else None)
    if not loaded.scales:
        others = dict.fromkeys(chain.from_iterable(loaded.counts.values()))
        expected = f"one of {', '.join(others) or '(none)'}" if is_scale else "runs/ or published/ with finished runs"
        raise HarnessError("no records to compare", where=folder, found=name, expected=expected)
    return Side(name, CellValues(loaded), tuple(cell for scale in loaded.scales for cell in all_cells(scale, loaded).cells))


def comparison(left: Side, right: Side) -> Table:
    """The two sides as a table, over the data sets that both have, else over the first of each.

    On the same data set and protocol the difference is tested, paired by seed where both have the same seeds.
    """
    pairs = [(data, data) for data in left.data if data in right.data] or [(left.data[0], right.data[0])]
    rows: list[tuple[CellText, ...]] = []
    columns = []
    for data_a, data_b in pairs:
        if len(pairs) > 1 or data_a != data_b:
            rows.append((" and ".join(dict.fromkeys([paper_values.data_name(data_a), paper_values.data_name(data_b)])),))
        values_a, values_b = left.values(data_a), right.values(data_b)
        labels = {cell.key: cell.label for side, data in ((left, data_a), (right, data_b)) for cell in side.cells if cell.data == data}
        for key, label in labels.items():
            a, b = values_a.get(key), values_b.get(key)
            if a is None and b is None:
                continue
            difference = _test(a, b) if data_a == data_b else None
            row = {"model": label, "key": key, "data_a": data_a, "data_b": data_b, **_columns(a, "a"), **_columns(b, "b")}
            if difference:
                row |= {"difference": difference.mean, "low": difference.low, "high": difference.high, "p": difference.p}
            columns.append(row)
            untested = "other data" if data_a != data_b else "other protocol" if a and b else MISSING
            text = _difference(difference) if difference else untested
            rows.append((label, _mean(a, values_a.get("ic")), _mean(b, values_b.get("ic")), text))
    notes = (
        *(f"{letter}: {shown.text}" for letter, shown in (("A", left), ("B", right))),
        "mean of FID (W2 for points) over n training seeds at the fixed last step, [95 % interval]; change from iCT-IC of the same side",
        "difference: B - A on one data set and protocol, by seed where both have it (paired t), else unpaired t; alpha = 0.05",
    )
    title = f"{left.name} and {right.name} compared"
    headers = ("model", f"A: {left.name}", f"B: {right.name}", "B - A")
    return Table(f"comparison-{left.slug}-{right.slug}", title, headers, tuple(rows), notes, data=pd.DataFrame(columns))


def _columns(value: Value | None, letter: str) -> dict[str, Any]:
    """The columns of one side in the CSV file."""
    if value is None:
        return {}
    mean = value.interval
    columns = {"metric": value.metric, "mean": mean.mean, "low": mean.low, "high": mean.high, "seeds": mean.n, "protocol": value.protocol}
    return {f"{name}_{letter}": entry for name, entry in columns.items()}


def _test(left: Value | None, right: Value | None) -> Difference | None:
    """Right - left; None where one is missing or their protocols differ."""
    if left is None or right is None or left.protocol != right.protocol:
        return None
    if len(left.values.keys() & right.values.keys()) > 1:
        return paired(right.values, left.values)
    return unpaired(list(right.values.values()), list(left.values.values()))


def _mean(value: Value | None, independent: Value | None) -> CellText:
    """The mean with its interval; below, n and the change from iCT-IC of the same side."""
    if value is None:
        return MISSING
    mean, factor = value.interval, METRICS[value.metric].factor
    places = max(2, min(4, decimals([mean.mean])))
    interval = (
        "" if mean.low is None or mean.high is None else f" [{number(mean.low * factor, places)}, {number(mean.high * factor, places)}]"
    )
    change = paired(value.values, independent.values) if independent and independent is not value else None
    relative = "" if change is None or change.relative is None else f", {signed(change.relative, '.0%')} against IC"
    return Lines(number(mean.mean * factor, places) + interval, f"n={mean.n}{relative}")


def _difference(difference: Difference) -> CellText:
    interval = "" if difference.low is None or difference.high is None else f" [{signed(difference.low)}, {signed(difference.high)}]"
    if difference.unit == PAIRED and difference.mean == 0 and difference.se is None:
        return Lines("0", f"equal in {difference.n} common seed{'s' * (difference.n > 1)}")
    count = f"{difference.n} common seeds" if difference.unit == PAIRED else "other seeds"
    return Lines(f"{signed(difference.mean)}{interval}", f"{p_text(difference.n, difference.p)}{'' if difference.n < 2 else f', {count}'}")
