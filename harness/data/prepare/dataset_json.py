"""Data sets in the format of EDM's dataset tool: a zip or folder of images of the final size, with their labels in dataset.json.

{"labels": [["00000/img00000000.png", 6], ...]}, or null for none (https://github.com/NVlabs/edm, dataset_tool.py). All images are training
rows, in the order of their names.
"""

from __future__ import annotations

import json
import zipfile
from contextlib import nullcontext
from pathlib import Path, PurePosixPath

import numpy as np

from harness.data.catalogue import DatasetInfo
from harness.data.prepare.folders import images_below, is_image
from harness.data.prepare.images import decode, image_split, resizer
from harness.data.prepare.source import Source, as_is, damaged, image_bytes, listing, not_found, reading

NAME = "dataset.json"
_MOST_BYTES = 1 << 30
"""ImageNet's labels have 60 MB."""


def is_dataset(path: Path) -> bool:
    """Whether `path` is a zip or folder with a dataset.json. Raises HarnessError for a damaged zip."""
    if path.is_dir():
        return (path / NAME).is_file()
    with reading(path), path.open("rb") as file:
        begins_as_zip = file.read(4) == b"PK\3\4"
    if not zipfile.is_zipfile(path):
        if begins_as_zip:
            raise damaged(path, "a zip without its end", "a complete zip")
        return False
    with reading(path, "a zip"), zipfile.ZipFile(path) as archive:
        return NAME in archive.namelist()


def read(path: Path, dataset: DatasetInfo, recipe: str | None, official: bool) -> Source:
    """The images, which must have the data set's size; labels are read where the data set has classes."""
    recipe = as_is(dataset, recipe)
    archive = None
    if path.is_dir():
        names = images_below(path)
    else:
        with reading(path, "a zip"):
            archive = zipfile.ZipFile(path)
        names = sorted(name for name in archive.namelist() if is_image(PurePosixPath(name).name))
    if not names:
        raise not_found(dataset, path, f"{NAME} without images")
    labels = _labels(path, archive, names) if dataset.classes else None
    resize = resizer("exact", dataset.shape[1])

    def row(index: int) -> np.ndarray:
        where = f"{path}/{names[index]}"
        with reading(where):
            data = image_bytes(archive or path, names[index])
        return decode(data, where, resize)

    split = image_split(names, lambda: nullcontext(row), labels)
    listed = listing(zip(names, labels, strict=True)) if labels is not None else listing(names)
    return Source({"train": split}, listed, recipe, {"label_order": f"{NAME} of {path.name}"} if labels is not None else {})


def _labels(path: Path, archive: zipfile.ZipFile | None, names: list[str]) -> list[int]:
    """The class of each image. Raises HarnessError if they are absent, or not one whole number per image."""
    where, expected = f"{path}/{NAME}", "a class number for every image"
    with reading(where, "JSON", TypeError, AttributeError, RecursionError):
        size = (path / NAME).stat().st_size if archive is None else archive.getinfo(NAME).file_size
        if size > _MOST_BYTES:
            raise damaged(where, f"{size:,} bytes", f"at most {_MOST_BYTES:,} bytes")
        raw = (path / NAME).read_bytes() if archive is None else archive.read(NAME)
        pairs = json.loads(raw).get("labels") or ()
        listed = {str(name): label for name, label in pairs}
        if len(listed) < len(pairs):
            raise damaged(where, "an image that is listed twice", expected)
    labels = [listed.get(name) for name in names]
    wrong = next((index for index, label in enumerate(labels) if type(label) is not int), None)
    if wrong is not None:
        raise damaged(where, f"{names[wrong]}: {labels[wrong]!r}", expected)
    return [label for label in labels if label is not None]
