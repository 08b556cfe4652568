"""Draws the figures that a report asks for, but for those whose files are already what would be drawn. No matplotlib unless one is drawn.

    <figures>/cache/<name>.json   of the figure <name>: the key of what it was drawn from, the SHA-256 of its files, and what the page shows

The key is a SHA-256 of the numbers, texts and files that the figure is drawn from, of the code and style that draw it, and of the versions
of the libraries. A figure is drawn again where the key differs, or where one of its files is missing or is not as it was written. The
folder can be removed at any time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.config.identity import canonical_json
from harness.config.run import Run
from harness.errors import HarnessError
from harness.locations import PACKAGE, read_regular
from harness.reporting.cells import Cell
from harness.reporting.figure_requests import Drawn, Request
from harness.reporting.values import CellValues
from harness.reporting.why_mu import Models
from harness.store.files import disk_errors, read_json, write_atomic

FOLDER = "cache"
SUFFIXES = ("png", "pdf", "csv")
CODE = (
    *("reporting/**/*.py", "reporting/**/*.toml", "reporting/**/*.mplstyle", "stats/*.py", "config/curriculum.py", "data/catalogue.py"),
    *("data/examples.py", "data/real_rows.npz", "store/records.py", "errors.py"),
)
"""The files of the package on which a figure may depend."""
LIBRARIES = ("matplotlib", "numpy", "pandas", "scipy", "pillow")


@dataclasses.dataclass(frozen=True)
class Entry:
    """What the cache knows about a figure that was asked for.

    figure: None where there was nothing to show. damage: inputs that could not be read. files: SHA-256 of each file, by its suffix.
    """

    figure: Drawn | None
    damage: tuple[str, ...] = ()
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)


def figures(requests: Sequence[Request], folder: Path, cell_values: CellValues) -> list[Drawn]:
    """Draws into `folder` what has changed, and returns all figures that have something to show, in their order.

    Damage that is met in drawing is added to that of the loaded results, also where the figure is not drawn again.
    """
    with drawing(requests, folder, cell_values) as drawn:
        return drawn()


@contextmanager
def drawing(requests: Sequence[Request], folder: Path, cell_values: CellValues) -> Iterator[Callable[[], list[Drawn]]]:
    """As `figures`, beside what the block does where processes can draw; gives the function that returns the figures, to be called once."""
    content = Content(cell_values)
    keys = [content.key(request) for request in requests]
    entries = [stored(folder, request.name, key) for request, key in zip(requests, keys, strict=True)]
    stale = [number for number, entry in enumerate(entries) if entry is None]

    def all_figures() -> list[Drawn]:
        cell_values.loaded.damage += [text for entry in entries if entry for text in entry.damage]
        return [entry.figure for entry in entries if entry and entry.figure]

    if not stale:
        yield all_figures
        return
    from harness.reporting.drawing import drawing_requests

    with drawing_requests([requests[number] for number in stale], folder, cell_values.loaded.damage) as results:

        def with_those_drawn() -> list[Drawn]:
            for number, (figure, damage) in zip(stale, results(), strict=True):
                name, key = requests[number].name, keys[number]
                entries[number] = entry = Entry(figure, tuple(damage), _digests(folder, name) if figure else {})
                _store(folder, name, key, entry)
            return all_figures()

        yield with_those_drawn


def _path(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name}.json"


def stored(folder: Path, name: str, key: str) -> Entry | None:
    """The entry of a figure; None if there is none of this key, or it or one of the figure's files was changed or cannot be read."""
    try:
        content = read_json(_path(folder, name))
        shown, seal = content["shown"], content["sha256"]
        if content["key"] != key or seal != _seal(key, shown):
            return None
        figure = shown["figure"] and Drawn(**(shown["figure"] | {"points": tuple(map(tuple, shown["figure"]["points"]))}))
        if figure and _digests(folder, name) != shown["files"]:
            return None
        return Entry(figure, tuple(shown["damage"]), shown["files"])
    except (HarnessError, OSError, AttributeError, KeyError, TypeError, ValueError):
        return None


def _store(folder: Path, name: str, key: str, entry: Entry) -> None:
    path, shown = _path(folder, name), dataclasses.asdict(entry)
    with disk_errors(path.parent, "create a folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, canonical_json({"key": key, "sha256": _seal(key, shown), "shown": shown}).encode(), durable=False)


def _seal(key: str, shown: Mapping[str, Any]) -> str:
    return _sha(f"{key} {canonical_json(shown)}".encode())


def _digests(folder: Path, name: str) -> dict[str, str]:
    """SHA-256 of each file of a figure, by its suffix. Raises OSError if one cannot be read."""
    return {suffix: _sha(read_regular(folder / f"{name}.{suffix}")) for suffix in SUFFIXES}


class Content:
    """The keys of figures. Of `cell_values`, a figure depends on the runs of the cells that are among its arguments."""

    def __init__(self, cell_values: CellValues) -> None:
        self.cell_values = cell_values
        self._cells: dict[int, str] = {}

    def key(self, request: Request) -> str:
        """A hash of everything that decides what is drawn."""
        made_from = self._text((request.name, request.draw, request.arguments, request.also))
        return _sha("\n".join([_code(), _versions(), self.cell_values.loaded.records, made_from]).encode())

    def _text(self, value: object) -> str:
        """A text that differs where the content of a value differs. Raises TypeError for a value whose content is not known."""
        if value is None or isinstance(value, (bool, int, float, str)):
            return repr(value)
        if isinstance(value, Path):
            return _file(value)
        if isinstance(value, CellValues):
            return "values"
        if isinstance(value, Cell):
            if id(value) not in self._cells:
                self._cells[id(value)] = _sha(self._of_cell(value).encode())
            return self._cells[id(value)]
        if isinstance(value, Models):
            runs = sorted(value.frame.run.unique())
            return self._fields(value) + "".join(map(self.cell_values.content, runs))
        if isinstance(value, Run):
            return canonical_json(value.to_dict())
        if isinstance(value, pd.DataFrame):
            rows = pd.util.hash_pandas_object(value, index=False).to_numpy().tobytes()
            return f"{list(value.columns)} {_sha(rows)}"
        if isinstance(value, np.ndarray):
            return f"{value.dtype} {value.shape} {_sha(value.tobytes())}"
        if isinstance(value, Mapping):
            return "{" + ",".join(f"{self._text(name)}:{self._text(item)}" for name, item in value.items()) + "}"
        if isinstance(value, (list, tuple)):
            return "[" + ",".join(map(self._text, value)) + "]"
        if isinstance(value, (set, frozenset)):
            return "(" + ",".join(sorted(map(self._text, value))) + ")"
        if dataclasses.is_dataclass(value) and not isinstance(value, (type, Enum)):
            return self._fields(value)
        raise TypeError(f"a figure cannot be drawn from a {type(value).__name__}: its content is not known")

    def _of_cell(self, cell: Cell) -> str:
        return self._fields(cell) + "".join(map(self.cell_values.content, cell.runs.values()))

    def _fields(self, value: Any) -> str:
        """The fields of a dataclass."""
        fields = (f"{field.name}={self._text(getattr(value, field.name))}" for field in dataclasses.fields(value))
        return f"{type(value).__name__}({','.join(fields)})"


@cache
def _code() -> str:
    """The code and data of the package that figures depend on."""
    paths = sorted({path for pattern in CODE for path in PACKAGE.glob(pattern)})
    return _sha("".join(f"{path.relative_to(PACKAGE).as_posix()} {_sha(path.read_bytes())}\n" for path in paths).encode())


@cache
def _versions() -> str:
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {metadata.version(name)}" for name in LIBRARIES)])


def _file(path: Path) -> str:
    """A file by its name and content."""
    try:
        return f"{path.name} {_sha(read_regular(path))}"
    except OSError as error:
        return f"{path.name} {type(error).__name__}"


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
