"""Two record sets side by side, with intervals: two scales of one results folder, or two results folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from harness.config.run import SCALE_NAMES
from harness.errors import HarnessError
from harness.reporting import load, paper_values
from harness.reporting.cells import Cell, all_cells
from harness.reporting.experiment_table import number
from harness.reporting.statistics import Paired, paired, welch
from harness.reporting.tables import MISSING, Shown, Small, Table
from harness.reporting.values import METRICS, Numbers, Value, decimals


@dataclass(frozen=True)
class RecordSet:
    """Cells with their numbers, under a name for the column."""

    name: str
    numbers: Numbers
    cells: tuple[Cell, ...]

    def values(self, data: str) -> dict[str, Value]:
        """The main metric of each cell of a data set, of one protocol."""
        cells = [cell for cell in self.cells if cell.data == data]
        return dict(self.numbers.column(cells, self.numbers.main(cells)).cells)


def record_set(root: Path, text: str) -> RecordSet:
    """A scale of `root`, or another results folder. Raises HarnessError when there is nothing."""
    if text in SCALE_NAMES:
        book = load.read(root)
        if text not in book.scales:
            there = ", ".join(book.scales) or "(none)"
            raise HarnessError("no records of this scale", where=root, found=text, expected=f"one of {there}")
        return RecordSet(text, Numbers(book), all_cells(text, book).cells)
    folder = Path(text)
    if not folder.is_dir():
        expected = ", ".join(SCALE_NAMES) + ", or a folder"
        raise HarnessError("neither a scale nor a results folder", where="--compare", found=text, expected=expected)
    book = load.read(folder)
    if not book.entries:
        raise HarnessError("no records in this folder", where=folder, expected="runs/ or published/ with finished runs")
    return RecordSet(text, Numbers(book), tuple(cell for scale in book.scales for cell in all_cells(scale, book).cells))


def comparison(left: RecordSet, right: RecordSet) -> tuple[Table, list[str]]:
    """The table, and what was damaged. On the same data set and protocol the difference is tested, paired by seed where seeds agree."""
    sides = [list(dict.fromkeys(cell.data for cell in one.cells)) for one in (left, right)]
    shared = [data for data in sides[0] if data in sides[1]]
    pairs = [(data, data) for data in shared] or [(sides[0][0], sides[1][0])]
    rows: list[tuple[Shown, ...]] = []
    tidy = []
    for data in pairs:
        values = [one.values(name) for one, name in zip((left, right), data, strict=True)]
        labels = {cell.key: cell.label for one, name in zip((left, right), data, strict=True) for cell in one.cells if cell.data == name}
        if len(pairs) > 1 or not shared:
            rows.append((" and ".join(dict.fromkeys(paper_values.data_name(name) for name in data)),))
        for key in [key for key in labels if key in values[0] or key in values[1]]:
            found = [side.get(key) for side in values]
            base = [side.get("ic") for side in values]
            difference = _difference(*found) if data[0] == data[1] else None
            shown = [_shown(value, ic, key) for value, ic in zip(found, base, strict=True)]
            rows.append((labels[key], *shown, _told(difference, found, data[0] == data[1])))
            tidy.append({"model": labels[key], "key": key, "data_a": data[0], "data_b": data[1], **_numbers("a", found[0])})
            tidy[-1] |= _numbers("b", found[1])
            if difference:
                tidy[-1] |= {"difference": difference.mean, "low": difference.low, "high": difference.high, "p": difference.p}
    notes = (
        "mean of FID (W2 for points) over n training seeds at the fixed last step, [95 % interval]; change against iCT-IC of its own set",
        "difference: B - A on one data set and protocol, by seed where both have it (paired t), else Welch's t; alpha = 0.05",
    )
    headers = ("model", f"A: {left.name}", f"B: {right.name}", "B - A")
    table = Table("comparison", f"{left.name} beside {right.name}", headers, tuple(rows), notes, data=pd.DataFrame(tidy))
    return table, [*left.numbers.book.damage, *right.numbers.book.damage]


def _difference(left: Value | None, right: Value | None) -> Paired | None:
    if left is None or right is None or left.protocol != right.protocol:
        return None
    if len(left.values.keys() & right.values.keys()) > 1:
        return paired(right.values, left.values)
    return welch(list(right.values.values()), list(left.values.values()))


def _shown(value: Value | None, ic: Value | None, key: str) -> Shown:
    if value is None:
        return MISSING
    made, places = value.interval, max(2, min(4, decimals([value.interval.mean])))
    main = number(made.mean * METRICS[value.metric].factor, places)
    if made.low is not None:
        main += f" [{number(made.low, places)}, {number(made.high, places)}]"
    against = paired(value.values, ic.values) if ic and key != "ic" else None
    relative = f", {against.relative:+.0%} against IC" if against and against.relative is not None else ""
    return Small(main, f"n={made.n}{relative}")


def _told(difference: Paired | None, found: list[Value | None], same_data: bool) -> Shown:
    if difference is None:
        return "other data" if not same_data else "other protocol" if all(found) else MISSING
    interval = "" if difference.low is None else f" [{difference.low:+.3g}, {difference.high:+.3g}]"
    return Small(f"{difference.mean:+.3g}{interval}", "one seed: no test" if difference.p is None else f"p = {difference.p:.2g}")


def _numbers(side: str, value: Value | None) -> dict[str, object]:
    if value is None:
        return {}
    made = value.interval
    facts = {"metric": value.metric, "mean": made.mean, "low": made.low, "high": made.high, "seeds": made.n, "protocol": value.protocol}
    return {f"{name}_{side}": fact for name, fact in facts.items()}
