"""Fast ways of reading many records give what the plain ways give, also for records that are damaged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from harness.store.files import parse_lines, parse_written_lines
from harness.store.records import FIELDS, valid, valid_columns

GOOD = {
    **{"run": "r", "step": 3, "images": 384, "seconds": 0.5, "metric": "fid", "value": 1.25, "sd": None, "se": None, "n": 1437},
    **{"resamplings": 1, "final": False, "protocol": "aaaaaaaaaaaa", "check": None},
}
FAULTS = [
    *({"value": value} for value in (math.nan, math.inf, -math.inf, 1e101, -1e101, 10**16, -(10**16), None, "1", True)),
    *({"step": value} for value in (1.0, None, True, "3")),
    *({"final": 1}, {"metric": None}, {"protocol": 7}, {"check": 1}, {"sd": 0.1, "resamplings": None}, {"n": math.nan}),
]
FITS = [{}, {"value": 10**15}, {"value": 1e100}, {"value": -1e100}, {"sd": 0.1}, {"images": 2.5}, {"check": "ab"}, {"run": 7}]


@pytest.mark.parametrize("change", [*FAULTS, *FITS])
def test_columns_are_valid_where_every_row_is(change):
    changed = {**GOOD, **change}
    assert valid(changed) == (change in FITS)
    for rows in ([changed], [GOOD, changed], [changed, GOOD]):
        columns = valid_columns(rows)
        if change in FITS:
            assert columns is not None and list(zip(*columns, strict=True)) == [tuple(map(row.get, FIELDS[1:])) for row in rows]
        else:
            assert columns is None
    for name in FIELDS[1:]:
        rows = [{key: value for key, value in changed.items() if key != name}]
        assert (valid_columns(rows) is not None) == valid(rows[0])


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"\n", b'{"a":1}\n{"b":[2]}\n', b'{"a":1}\n\n{"b":2}', b'{"a":1}\n{"b":2', b'{"a":1},{"b":2}\n', b"[1]\n2\n"),
        *(b'{"a":1}\nno\n', b'{"a":"\\ud800"}\n', b'{"a":"\xff"}\n', b"[" * 100_000 + b"\n", b'{"a":NaN}\n', b'{"a":1\n"b":2}\n'),
    ],
)
def test_all_lines_at_once_are_parsed_as_one_by_one(text):
    damage, again = [], []
    plain = parse_lines(text, Path("f"), damage.append)
    assert json.dumps(parse_written_lines(text, Path("f"), again.append)) == json.dumps(plain) and again == damage
