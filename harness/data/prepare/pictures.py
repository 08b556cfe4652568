"""Where a user's images are: a folder or zip of encoded images, an npz as of ADM's evaluator, Parquet files as of Hugging Face."""

from __future__ import annotations

import bisect
import importlib
import os
import struct
import tempfile
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image

from harness.data.prepare.images import SUFFIXES
from harness.data.prepare.source import AGAIN, ARCHIVES, damaged, image_bytes, reading
from harness.errors import HarnessError, MissingFile

IMAGES = frozenset({*SUFFIXES, ".bmp", ".tif", ".tiff"})
PARQUET = ".parquet"
LABELS = ("label", "labels", "fine_label", "class")
"""Names of a column of classes in a Parquet file, of which the first one counts."""
GROUPS = 4
"""Row groups of Parquet files that are held at once."""
EXPECTED = f"a folder or zip of images ({', '.join(sorted(IMAGES))}), an .npz with arr_0, or Parquet files"
Fetch = Callable[[int], "bytes | Image.Image"]


@dataclass(frozen=True)
class Pictures:
    """The images of a source. names: unique, in the order of the rows. sizes: bytes of each, as far as that is known without reading it.

    open: a context that provides fetch(i), the i-th image, encoded or decoded; threads may call it at once. labels: the classes that the
    source itself holds.
    """

    path: Path
    kind: Literal["folder", "zip", "npz", "Parquet"]
    names: Sequence[str]
    sizes: Sequence[int]
    open: Callable[[], AbstractContextManager[Fetch]]
    labels: Sequence[int] | None = None

    def where(self, index: int) -> str:
        """The image, for a message."""
        return f"{self.path}/{self.names[index]}"


def open_pictures(path: Path) -> Pictures:
    """The images below a folder, or in a file. Raises HarnessError for a source without images."""
    if path.is_dir():
        names = names_below(path)
        if names:
            sizes = [(path / name).stat().st_size for name in names]
            return Pictures(path, "folder", names, sizes, lambda: nullcontext(_named(path, names)))
        files = sorted(file for file in path.rglob(f"*{PARQUET}") if file.is_file())
        if files:
            return _parquet(path, files)
        packed = next((file for file in sorted(path.iterdir()) if file.suffix.lower() in (*ARCHIVES, ".npz")), None)
        advice = packed and (f"--from {packed}" if packed.suffix.lower() in (".zip", ".npz") else f"unpack {packed.name} first")
        raise MissingFile("a folder without images", where=path, found="none of them", expected=EXPECTED, nearest=advice)
    if path.suffix.lower() == PARQUET:
        return _parquet(path, [path])
    with reading(path):
        is_zip = zipfile.is_zipfile(path)
    if not is_zip:
        advice = "unpack it first" if path.suffix.lower() in ARCHIVES and path.suffix.lower() != ".zip" else AGAIN
        raise damaged(path, "neither a zip, nor an npz, nor a Parquet file", EXPECTED, advice)
    with reading(path, "a zip or npz"), zipfile.ZipFile(path) as archive:
        members = set(archive.namelist())
    return _npz(path) if "arr_0.npy" in members or path.suffix.lower() == ".npz" else _zip(path)


def is_picture(name: str) -> bool:
    """Whether a path ends like an image, and neither it nor a folder above it is hidden or made by a file manager."""
    parts = PurePosixPath(name).parts
    return PurePosixPath(name).suffix.lower() in IMAGES and not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def names_below(folder: Path) -> list[str]:
    """The paths of the images below a folder, relative to it, sorted. Only regular files: a pipe would block the reader."""
    found = []
    for place, folders, files in os.walk(folder):
        folders.sort()
        below = Path(place).relative_to(folder)
        found += [name for file in files if is_picture(name := (below / file).as_posix()) and (folder / name).is_file()]
    return sorted(found)


def _named(folder: Path | zipfile.ZipFile, names: Sequence[str]) -> Fetch:
    return lambda index: image_bytes(folder, names[index])


def _zip(path: Path) -> Pictures:
    with reading(path, "a zip"), zipfile.ZipFile(path) as archive:
        entries = {info.filename: info.file_size for info in archive.infolist() if not info.is_dir() and is_picture(info.filename)}
    names = sorted(entries)
    if not names:
        raise MissingFile("a zip without images", where=path, found="none of them", expected=EXPECTED)

    @contextmanager
    def opened() -> Iterator[Fetch]:
        with reading(path, "a zip"):
            archive = zipfile.ZipFile(path)
        with archive:
            yield _named(archive, names)

    return Pictures(path, "zip", names, [entries[name] for name in names], opened)


def _npz(path: Path) -> Pictures:
    """arr_0: uint8 (N, H, W, C), C = 1, 3 or 4, or (N, H, W); arr_1, where there is one: N whole numbers, the classes."""
    expected = "arr_0, uint8 (N, H, W, C) with 1, 3 or 4 channels, and optionally arr_1, N whole numbers"
    with reading(path, expected), zipfile.ZipFile(path) as archive:
        if "arr_0.npy" not in archive.namelist():
            found, advice = f"arrays {', '.join(archive.namelist()[:5])}", "numpy.savez(FILE, images) or (FILE, images, labels)"
            raise damaged(path, found, expected, advice)
        images = _mapped(archive, "arr_0.npy", path)
        labels = np.load(archive.open("arr_1.npy"), allow_pickle=False) if "arr_1.npy" in archive.namelist() else None
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] not in (1, 3, 4)) or not images.size:
        raise damaged(path, f"arr_0: {images.dtype} {images.shape}", expected, "pixels of 0 to 255 as uint8, the channels last")
    if labels is not None and (labels.dtype.kind not in "iu" or labels.shape != (len(images),)):
        raise damaged(path, f"arr_1: {labels.dtype} {labels.shape} for {len(images)} images", expected, "one whole number for each image")

    def fetch(index: int) -> Image.Image:
        pixels = np.ascontiguousarray(images[index])
        return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels)

    names = [f"arr_0[{index}]" for index in range(len(images))]
    size = int(np.prod(images.shape[1:]))
    return Pictures(path, "npz", names, [size] * len(images), lambda: nullcontext(fetch), None if labels is None else labels.tolist())


def _mapped(archive: zipfile.ZipFile, member: str, path: Path) -> np.ndarray:
    """An array of an npz, not held in memory: mapped where it is stored as it is, else from a temporary file. Its checksum is compared."""
    info = archive.getinfo(member)
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        shape, fortran, dtype = (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
        header = file.tell()
    if fortran or dtype.hasobject:
        raise ValueError(f"{member} is in Fortran order or holds objects")
    if info.compress_type == zipfile.ZIP_STORED:
        with archive.open(info) as file:
            while file.read(1 << 20):
                pass  # zipfile compares the checksum at the end
        with path.open("rb") as raw:
            raw.seek(info.header_offset + 26)
            name, extra = struct.unpack("<HH", raw.read(4))
        return np.memmap(path, dtype, "r", info.header_offset + 30 + name + extra + header, shape)
    with tempfile.TemporaryFile() as unpacked, archive.open(info) as file:
        while chunk := file.read(1 << 20):
            unpacked.write(chunk)
        unpacked.flush()
        return np.memmap(unpacked, dtype, "r", header, shape)


def _parquet(path: Path, files: Sequence[Path]) -> Pictures:
    """The rows of all files: an image column, a struct of bytes and path or the bytes alone, and a column of classes, whole numbers."""
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        what, fix = "Parquet files are read by pyarrow, which is not installed", 'pip install "consistency-harness[parquet]"'
        raise HarnessError(what, where=path, found="no module pyarrow", expected="pyarrow", nearest=fix) from None
    expected = "a column of images, a struct of bytes and path, and optionally label, whole numbers"
    tables: list[tuple[Any, str]] = []
    starts: list[int] = []
    groups: list[tuple[int, int]] = []
    names: list[str] = []
    labels: list[int] = []
    for number, file in enumerate(files):
        with reading(file, expected, arrow.ArrowException):
            table = parquet.ParquetFile(file)
            image, label = _image_column(table.schema_arrow, arrow), _label_column(table.schema_arrow, arrow)
            if image is None:
                raise ValueError(f"columns {', '.join(table.schema_arrow.names)}")
            tables.append((table, image))
            first = len(names)
            name = file.name if file == path else file.relative_to(path).as_posix()
            names += [f"{name}[{row}]" for row in range(table.metadata.num_rows)]
            for group in range(table.metadata.num_row_groups):
                starts.append(first)
                groups.append((number, group))
                first += table.metadata.row_group(group).num_rows
            if label is not None:
                labels += table.read(columns=[label]).column(label).to_pylist()
    if not names:
        raise MissingFile("Parquet files without rows", where=path, found="none", expected=EXPECTED)
    if labels and (len(labels) != len(names) or any(type(value) is not int for value in labels)):
        raise damaged(path, "images without a class", "a class for every image, or none in any file", "--labels none")
    held: OrderedDict[int, Any] = OrderedDict()
    lock = threading.Lock()

    def fetch(index: int) -> bytes:
        place = bisect.bisect_right(starts, index) - 1
        with lock:
            if place not in held:
                number, group = groups[place]
                table, image = tables[number]
                held[place] = table.read_row_group(group, columns=[image]).column(image)
                while len(held) > GROUPS:
                    held.popitem(last=False)
            value = held[place][index - starts[place]].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not content:
            raise ValueError("no bytes; the image may be a file elsewhere")
        return bytes(content)

    def checked(index: int) -> bytes:
        try:
            return fetch(index)
        except arrow.ArrowException as error:
            raise ValueError(str(error)) from None

    return Pictures(path, "Parquet", names, [0] * len(names), lambda: nullcontext(checked), labels or None)


def _image_column(schema: Any, arrow: Any) -> str | None:
    """The first column of structs with bytes, or else of bytes."""

    def is_bytes(kind: Any) -> bool:
        return bool(arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind))

    structs = [field for field in schema if arrow.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0]
    named = [field.name for field in structs if is_bytes(field.type.field("bytes").type)] + [f.name for f in schema if is_bytes(f.type)]
    return next(iter(named), None)


def _label_column(schema: Any, arrow: Any) -> str | None:
    return next((name for name in LABELS if name in schema.names and arrow.types.is_integer(schema.field(name).type)), None)
