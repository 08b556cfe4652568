"""Pickled batches of images: plain containers and arrays of numbers, nothing else. Nothing in a pickle is run."""

from __future__ import annotations

import pickle
from typing import IO, Any

import numpy as np

from harness.data.inert_pickle import Record, RecordingUnpickler
from harness.data.prepare.source import damaged

_ENCODE = "_codecs.encode"  # how Python 3 writes bytes in protocol 2
_RECONSTRUCT = {f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")}
_FROM_BUFFER = {f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")}
_RECORDED = {_ENCODE, "numpy.ndarray", "numpy.dtype", *_RECONSTRUCT, *_FROM_BUFFER}
_NUMBERS = {"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "b1"}


def load(file: IO[bytes], where: object) -> dict[str, object]:
    """The dictionary in a pickle; its keys as text, whether Python 2 or 3 wrote it.

    Raises HarnessError for a damaged pickle and for one that names anything but arrays of numbers.
    """
    try:
        content = RecordingUnpickler(file, _RECORDED, encoding="bytes").load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"a {type(content).__name__} instead of a dictionary")
        return {_text(key): _plain(value) for key, value in content.items()}
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise damaged(where, error, "an undamaged pickle of plain data") from None


def _text(value: object) -> str:
    plain = _plain(value)
    return plain.decode("latin1") if isinstance(plain, bytes) else str(plain)


def _plain(value: Any) -> Any:
    """The array or bytes that a record stands for; other values as they are."""
    if not isinstance(value, Record):
        return value
    if value.name == _ENCODE and value.args[1:] == ("latin1",):
        return value.args[0].encode("latin1")
    if value.name in _FROM_BUFFER:  # (bytes, type, shape, order)
        raw, dtype, shape, order = value.args
    elif value.name in _RECONSTRUCT:  # its state: (version, shape, type, Fortran order, bytes)
        _version, shape, dtype, fortran, raw = value.state
        order = "F" if fortran else "C"
    else:
        raise pickle.UnpicklingError(f"{value.name} is not an array of numbers")
    return np.frombuffer(_plain(raw), _dtype(dtype)).reshape(shape, order=order)


def _dtype(record: Record) -> np.dtype:
    """The type that a call of numpy.dtype names, in the byte order of its state (version, byte order, ...)."""
    kind: Any
    order: Any
    kind, order = (value.decode("ascii") if isinstance(value, bytes) else value for value in (record.args[0], record.state[1]))
    if record.name != "numpy.dtype" or kind not in _NUMBERS:
        raise pickle.UnpicklingError(f"an array of {kind!r}, not of numbers")
    return np.dtype(kind).newbyteorder(order)
