"""Folders of images: the ImageNet class tree and FFHQ's pngs."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from harness.data.catalogue import DatasetInfo
from harness.data.prepare import downsampled
from harness.data.prepare.images import SUFFIXES, ImageSplit, Resize, decode, image_split, resizer
from harness.data.prepare.source import PARTIAL, Source, damaged, image_bytes, listing, not_found, reading
from harness.errors import HarnessError

SOLUTION = "LOC_val_solution.csv"
"""Kaggle's list of the classes of the validation images, which it stores in one flat folder."""


def read_imagenet(path: Path, dataset: DatasetInfo, recipe: str | None, official: bool) -> Source:
    """The class tree (train/CLASS/*.JPEG, val/CLASS/*.JPEG, or the class folders themselves), or the official down-sampled batches.

    A flat val/ needs Kaggle's LOC_val_solution.csv, beside it or above. Labels count the sorted class folders from 0, as torchvision and
    EDM do. In memory: the file names.
    """
    if not path.is_dir():
        raise not_found(dataset, path, "a file that is no data set")
    if any(downsampled.find(path).values()):
        return downsampled.read(path, dataset, recipe, official)
    bases = (path / "ILSVRC" / "Data" / "CLS-LOC", path / "Data" / "CLS-LOC", path)
    base = next((folder for folder in bases if (folder / "train").is_dir()), path)
    train = base / "train" if (base / "train").is_dir() else base
    classes = _folders(train)
    names = {"train": {f"{name}/{file}": name for name in classes for file in image_names(train / name)}}
    folders = {"train": train}
    if not classes or not names["train"]:
        raise not_found(dataset, path, "no class folders of images")
    if (official and len(classes) != dataset.classes) or len(classes) > dataset.classes:
        raise HarnessError("wrong number of classes", where=train, found=len(classes), expected=dataset.classes, nearest=PARTIAL)
    if train != base and (base / "val").is_dir():
        names["heldout"], folders["heldout"] = _validation(base / "val", classes, [path, *base.parents]), base / "val"
    recipe = recipe or dataset.recipe
    resize = resizer(recipe, dataset.shape[1])
    label = {name: number for number, name in enumerate(classes)}
    splits = {
        split: _split(folders[split], list(files), resize, labels=[label[class_name] for class_name in files.values()])
        for split, files in names.items()
    }
    order = {"label_order": "sorted class folders"}
    return Source({**splits}, listing((split, file) for split, files in names.items() for file in files), recipe, order)


def _validation(folder: Path, classes: Sequence[str], above: Sequence[Path]) -> dict[str, str]:
    """Class of each validation image, by its path below `folder`: class by class, the images of each in the order of their names.

    above: folders that may hold Kaggle's list for a flat folder. Raises HarnessError for other classes and for a flat folder without it.
    """
    present, flat = _folders(folder), image_names(folder)
    if flat and not present:
        solution = next((place / SOLUTION for place in above if (place / SOLUTION).is_file()), None)
        if solution is None:
            count, expected = f"{len(flat):,} images without class folders", f"val/CLASS/*.JPEG, or {SOLUTION} above it"
            script = "valprep.sh of https://github.com/soumith/imagenetloader.torch does"
            advice = f"sort them into class folders, as {script}, or put Kaggle's {SOLUTION} into {above[0]}"
            raise HarnessError("the validation images have no classes", where=folder, found=count, expected=expected, nearest=advice)
        class_of = _solution(solution)
        names = {file: class_of.get(Path(file).stem, "no class in the list") for file in flat}
        return dict(sorted(_of_classes(names, classes, folder).items(), key=lambda item: (item[1], item[0])))
    names = {f"{name}/{file}": name for name in present for file in image_names(folder / name)}
    if not names:
        raise HarnessError("no validation images", where=folder, found="no class folders of images", expected="val/CLASS/*.JPEG")
    return _of_classes(names, classes, folder)


def _of_classes(names: dict[str, str], classes: Sequence[str], folder: Path) -> dict[str, str]:
    if others := sorted(set(names.values()) - set(classes)):
        raise HarnessError("the classes do not agree", where=folder, found=", ".join(others[:3]), expected="the classes of train/")
    return names


def _solution(path: Path) -> dict[str, str]:
    """Image name -> class in Kaggle's list: ImageId, then a class followed by boxes."""
    with reading(path, "lines such as ILSVRC2012_val_00000001,n01978287 85 1 499 272", csv.Error), path.open(encoding="utf-8") as file:
        lines = list(csv.reader(file))[1:]
    classes = {line[0]: line[1].split()[0] for line in lines if len(line) == 2 and line[1].strip()}
    if len(classes) != len([line for line in lines if line]):
        raise damaged(path, "a line without an image and a class, or an image listed twice", "one class per image")
    return classes


def read_ffhq(path: Path, dataset: DatasetInfo, recipe: str | None, official: bool) -> Source:
    """All images below a folder, by name; square, of one known size. All 70,000 are training rows, as in EDM and ECT."""
    files = images_below(path)
    if not files:
        raise not_found(dataset, path, "no images")
    recipe = recipe or dataset.recipe
    size = dataset.shape[1]
    sizes = {(side, side) for side in (size, 128, 256, 512, 1024)}
    return Source({"train": _split(path, files, resizer(recipe, size), sizes=sizes)}, listing(files), recipe)


def _split(
    folder: Path, names: list[str], resize: Resize, *, labels: list[int] | None = None, sizes: set[tuple[int, int]] | None = None
) -> ImageSplit:
    def row(index: int) -> np.ndarray:
        file = folder / names[index]
        with reading(file):
            data = image_bytes(folder, names[index])
        return decode(data, file, resize, sizes=sizes)

    return image_split(names, lambda: nullcontext(row), labels)


def is_image(name: str) -> bool:
    """Whether this is the name of an image, and not of a hidden file, which file managers put beside images."""
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def image_names(folder: Path) -> list[str]:
    """The names of the images in a folder, sorted. Only regular files: a pipe would block the reader."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_image(entry.name) and entry.is_file())


def images_below(folder: Path) -> list[str]:
    """The paths of all images below a folder, relative to it, sorted; none where it is no folder."""
    if not folder.is_dir():
        return []
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if is_image(file.name) and file.is_file())
