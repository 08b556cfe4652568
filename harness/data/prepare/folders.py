"""Folders of images: the ImageNet class tree and FFHQ's pngs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from harness.data.catalogue import DatasetInfo
from harness.data.prepare import downsampled
from harness.data.prepare.images import SUFFIXES, Resize, decode, image_split, resizer
from harness.data.prepare.source import Source, SplitSource, listing, not_found, reading
from harness.errors import HarnessError


def read_imagenet(path: Path, dataset: DatasetInfo, recipe: str | None, official: bool) -> Source:
    """The class tree (train/CLASS/*.JPEG, val/CLASS/*.JPEG, or the class folders themselves), or the official down-sampled batches.

    Labels count the sorted class folders from 0, as torchvision and EDM do. In memory: the file names.
    """
    if not path.is_dir():
        raise not_found(dataset, path, "a file")
    if any(downsampled.find(path).values()):
        return downsampled.read(path, dataset, recipe, official)
    base = next((folder for folder in (path / "Data" / "CLS-LOC", path) if (folder / "train").is_dir()), path)
    train = base / "train" if (base / "train").is_dir() else base
    folders = {"train": train, "heldout": base / "val"} if train != base and (base / "val").is_dir() else {"train": train}
    classes = _folders(train)
    if not classes:
        raise not_found(dataset, path, "no class folders of images")
    if (official and len(classes) != dataset.classes) or len(classes) > dataset.classes:
        raise HarnessError("wrong number of classes", where=train, found=len(classes), expected=dataset.classes)
    recipe = recipe or dataset.recipe
    resize = resizer(recipe, dataset.shape[1])
    label = {name: number for number, name in enumerate(classes)}
    names: dict[str, list[str]] = {}
    for split, folder in folders.items():
        present = _folders(folder)
        if not present or not set(present) <= set(classes):
            others = ", ".join(sorted(set(present) - set(classes))[:3]) or "no class folders"
            raise HarnessError("the class folders do not agree", where=folder, found=others, expected=f"the classes of {train}")
        names[split] = [f"{name}/{file}" for name in present for file in _images(folder / name)]
    splits = {
        split: _split(folders[split], files, resize, labels=[label[file.split("/")[0]] for file in files]) for split, files in names.items()
    }
    order = {"label_order": "sorted class folders"}
    return Source(splits, listing((split, file) for split, files in names.items() for file in files), recipe, order)


def read_ffhq(path: Path, dataset: DatasetInfo, recipe: str | None, official: bool) -> Source:
    """All images below a folder, by name; square, of one known size. All 70,000 are training rows, as in EDM and ECT."""
    files = sorted(str(file.relative_to(path)) for file in path.rglob("*") if _is_image(file.name)) if path.is_dir() else []
    if not files:
        raise not_found(dataset, path, "no images")
    recipe = recipe or dataset.recipe
    size = dataset.shape[1]
    sizes = {(side, side) for side in (size, 128, 256, 512, 1024)}
    return Source({"train": _split(path, files, resizer(recipe, size), sizes=sizes)}, listing(files), recipe)


def _split(
    folder: Path, names: list[str], resize: Resize, *, labels: list[int] | None = None, sizes: set[tuple[int, int]] | None = None
) -> SplitSource:
    def row(index: int) -> np.ndarray:
        file = folder / names[index]
        with reading(file):
            data = file.read_bytes()
        return decode(data, file, resize, sizes=sizes)

    return image_split(len(names), row, labels)


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if _is_image(entry.name))
