"""Pickles of other projects, read without running anything they contain.

Every class or function that such a pickle names becomes an inert `Record` of its name, arguments and state; a name outside a fixed list is
refused.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping
from typing import IO, Any


class RefusedName(pickle.UnpicklingError):
    """A pickle names a class or function that is not on the list."""

    def __init__(self, name: str) -> None:
        super().__init__(f"refused: it names {name}")
        self.name = name


class Record:
    """One call or object of a pickle, not executed: `name` is what it calls, `args` its arguments, `state` what was set on the result."""

    name = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: object) -> Record:
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state


class RecordingUnpickler(pickle._Unpickler):
    """Records what is in `recorded` (full names) and builds the plain containers of `containers`; raises RefusedName for other names.

    It is Python's own unpickler: that in C takes memory for as many objects as a pickle of a few bytes claims to have.
    """

    def __init__(
        self, file: IO[bytes], recorded: Collection[str], containers: Mapping[str, type] | None = None, encoding: str = "ASCII"
    ) -> None:
        super().__init__(file, encoding=encoding)
        # New classes for every load: even a pickle that sets attributes on what it names leaves nothing behind.
        self._classes = {name: type("Record", (Record,), {"name": name}) for name in recorded} | dict(containers or {})

    def find_class(self, module: str, name: str) -> type:
        full_name = f"{module}.{name}"
        if full_name not in self._classes:
            raise RefusedName(full_name)
        return self._classes[full_name]

    def persistent_load(self, pid: object) -> None:
        raise pickle.UnpicklingError("it refers to storages outside itself")
