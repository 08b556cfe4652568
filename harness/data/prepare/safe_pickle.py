"""Pickles of other people, read without running anything of theirs: plain containers and arrays of numbers, nothing else.

What a pickle may name stands in _ADMITTED, and each entry is a small stand-in of our own: not even NumPy's code sees its state.
"""

from __future__ import annotations

import pickle
from typing import BinaryIO

import numpy as np

from harness.data.prepare.source import damaged

_NUMBERS = {"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "b1"}


class _Dtype:
    """numpy.dtype(kind, align, copy), then its state (version, byte order, ...)."""

    def __init__(self, kind: str | bytes, align: object = False, copy: object = True) -> None:
        name = kind.decode("ascii") if isinstance(kind, bytes) else kind
        if name not in _NUMBERS:
            raise pickle.UnpicklingError(f"an array of {name!r}, which is no number")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        self.dtype = self.dtype.newbyteorder(order)


class _Ndarray:
    """The name numpy.ndarray, which _reconstruct is given."""


class _Array:
    """numpy's _reconstruct(ndarray, shape, kind), then its state (version, shape, dtype, fortran, bytes)."""

    def __init__(self, *_args: object) -> None:
        self.array: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _version, shape, dtype, fortran, raw = state
        self.array = np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if fortran else "C")


def _from_buffer(raw: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    found = _Array()
    found.__setstate__((1, shape, dtype, order == "F", raw))
    return found


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


_ADMITTED = {
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,  # how Python 3 writes bytes in protocol 2
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"refused: it asks for {module}.{name}")
        return _ADMITTED[module, name]


def load(file: BinaryIO, where: object) -> dict[str, object]:
    """The dictionary in a pickle; its keys as text, whether Python 2 or 3 wrote it.

    Raises HarnessError for a damaged pickle and for one that asks for anything but numbers, text and plain containers.
    """
    try:
        found = _Unpickler(file, encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise damaged(where, error, "a whole pickle of plain data") from None
    if not isinstance(found, dict):
        raise damaged(where, type(found).__name__, "a dictionary")
    plain = {key: value.array if isinstance(value, _Array) else value for key, value in found.items()}
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in plain.items()}
