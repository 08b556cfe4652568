"""A data set from a user's own images: which colours, sizes and classes they get, and which of them are held out.

Every image is treated by one rule, which the manifest records (see RULE). The sources are in harness.data.prepare.pictures.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from harness.config.custom_data import ENTRY
from harness.config.derived import LEAST_IMAGES, level_sides
from harness.config.parts import Features
from harness.data.catalogue import DatasetInfo
from harness.data.prepare.images import Convert, ImageSplit, Rows, decode, fitted, image_split, opened, resizer, rgb
from harness.data.prepare.pictures import Pictures, open_pictures
from harness.data.prepare.source import Source, damaged, listing, reading
from harness.errors import HarnessError, MissingFile
from harness.locations import read_regular, user_path

RECIPE = "square-lanczos"
HELDOUT = "10%"
FROM_FOLDERS, NO_LABELS = "from-folders", "none"
LEAST_LABELLED = 500
"""Training images from which a classifier is trained without being asked for."""
PROBED = 256
"""Images whose headers decide whether a set is grey, evenly spaced."""
MOST_CHANNELS = {1: "grey", 3: "RGB"}
RULE = (
    "the first frame, turned as its EXIF orientation says; transparent pixels over white; 16-bit grey values divided by 257, other values "
    "as 8 bits; made grey (ITU-R 601) or RGB as `channels` says; cut and resized as `recipe` says, never enlarged"
)
"""What is done to every image."""
_MOST_BYTES = 1 << 30


def read(
    name: str,
    path: Path,
    size: int,
    labels: str | None = None,
    heldout: str = HELDOUT,
    channels: int | None = None,
    recipe: str = RECIPE,
    features: Features | None = None,
) -> tuple[DatasetInfo, Source]:
    """The images of a source as a data set of size x size pixels.

    labels: "from-folders", the folder of an image below the one that all images share is its class; a CSV file of image, class; "none";
    None for those that an npz or Parquet file holds. heldout: a share ("10%") or number of images, drawn at random with each class in its
    share: by the hash of an image's name, so that the same images are held out on every machine. channels: 1 or 3; None for 1 if all probed
    images are grey. recipe: see harness.data.prepare.images. features: None for the classifier where there are classes and at least
    LEAST_LABELLED training images, else the random network. Raises HarnessError for what is no source, a size that no network fits, labels
    that do not fit the images, and too few images.
    """
    level_sides(size)
    resize, pictures = resizer(recipe, size), open_pictures(path)
    classes, class_names = _classes(pictures, labels, path)
    held = held_out(pictures.names, classes, _count(heldout, len(pictures.names)))
    if (kept := len(held) - int(held.sum())) < LEAST_IMAGES:
        found = f"{kept} for training, {int(held.sum())} held out"
        raise HarnessError("too few images", where=path, found=found, expected=f"at least {LEAST_IMAGES} training images")
    usual: Features = "classifier" if class_names and kept >= LEAST_LABELLED else "random"
    if features == "classifier" and not class_names:
        what, advice = "images without classes cannot train a classifier", "--labels from-folders, or --features random"
        raise HarnessError(what, where="--features", found=features, expected="labelled images", nearest=advice)
    strict = channels is None
    channels = channels or _channels(pictures)
    convert = converter(channels, strict)

    @contextmanager
    def rows(of: np.ndarray) -> Iterator[Callable[[int], np.ndarray]]:
        with pictures.open() as fetch:

            def row(index: int) -> np.ndarray:
                where = pictures.where(of[index])
                with reading(where):
                    content = fetch(int(of[index]))
                if isinstance(content, bytes):
                    return decode(content, where, resize, smallest=size, convert=convert)
                return fitted(convert(content, where), where, resize, smallest=size)

            yield row

    def split(of: np.ndarray) -> ImageSplit:
        opened_rows: Rows = lambda: rows(of)  # noqa: E731 - a name for its type
        return image_split([pictures.names[i] for i in of], opened_rows, None if classes is None else [classes[i] for i in of])

    parts = {"train": split(np.flatnonzero(~held))} | ({"heldout": split(np.flatnonzero(held))} if held.any() else {})
    how = {"classes": len(class_names), "class_names": class_names, "features": features or usual, "channels": channels, "heldout": heldout}
    how |= {"labels": labels if labels in (FROM_FOLDERS, None) else Path(labels).name, "kind": pictures.kind, "rule": RULE}
    names = listing((*zip(pictures.names, pictures.sizes, classes or [-1] * len(held), strict=True), *how.items()))
    dataset = DatasetInfo(
        name, (channels, size, size), len(class_names), int((~held).sum()), int(held.sum()), "images of your own", f"images --size {size}",
        recipe, features=features or usual,
    )  # fmt: skip
    return dataset, Source({**parts}, names, recipe, {ENTRY: how})


def converter(channels: int, strict: bool) -> Convert:
    """The conversion to grey (1) or RGB (3). strict: where grey was not asked for, raises HarnessError for a colour image."""

    def convert(image: Image.Image, where: object) -> Image.Image:
        colour = not is_grey(image)
        image = ImageOps.exif_transpose(image)
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or ("transparency" in image.info and not image.mode.startswith("I;16")):
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        image = rgb(image, where)
        if channels == 3:
            return image
        if strict and colour:
            what, advice = "a colour image in a set of grey images", "--channels 3, or --channels 1, which makes it grey"
            raise HarnessError(what, where=where, found="a colour image", expected="grey images, as those looked at first", nearest=advice)
        return image.convert("L")

    return convert


def is_grey(image: Image.Image) -> bool:
    """Whether the image is stored without colour; a palette counts as colour."""
    return image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I;16")


def _channels(pictures: Pictures) -> int:
    """1 if all of PROBED images are grey, else 3; what cannot be read is left for later."""
    grey = []
    with pictures.open() as fetch:
        for index in np.unique(np.linspace(0, len(pictures.names) - 1, PROBED).astype(int)).tolist():
            try:
                content = fetch(index)
                grey.append(is_grey(opened(content) if isinstance(content, bytes) else content))
            except Exception:  # a damaged image can raise nearly anything; reading it again says what
                continue
    return 1 if grey and all(grey) else 3


def held_out(names: Sequence[str], classes: Sequence[int] | None, count: int) -> np.ndarray:
    """Which of the images are held out, (n,) bool: each class has its share of the `count`, to within one image.

    Within a class, those whose names have the smallest SHA-256.
    """
    order = sorted(range(len(names)), key=lambda i: hashlib.sha256(f"held out/{names[i]}".encode("utf-8", "surrogateescape")).digest())
    share = np.empty(len(names))
    of_class: dict[int, list[int]] = {}
    for index in order:
        of_class.setdefault(classes[index] if classes else 0, []).append(index)
    for members in of_class.values():
        share[members] = (np.arange(len(members)) + 0.5) / len(members)
    place = np.empty(len(names), dtype=int)
    place[order] = np.arange(len(names))
    held = np.zeros(len(names), dtype=bool)
    held[np.lexsort((place, share))[:count]] = True
    return held


def _count(text: str, images: int) -> int:
    """The number of held-out images of a share ("10%") or number. Raises HarnessError for anything else."""
    number = text.strip().removesuffix("%")
    expected = "a share below 100%, such as 10%, or a number of images; 0 for none"
    try:
        share = float(number) / 100 if text.strip().endswith("%") else None
        count = int(number) if share is None else 0 if not 0 <= share < 1 else max(round(share * images), int(share > 0))
    except ValueError:
        share, count = None, -1
    if count < 0 or (share is not None and not 0 <= share < 1) or count > images:
        raise HarnessError("not a number of images to hold out", where="--heldout", found=text, expected=expected, nearest=HELDOUT)
    return count


def _classes(pictures: Pictures, labels: str | None, path: Path) -> tuple[list[int] | None, list[str]]:
    """The class of each image and the names of the classes, in their order; None and [] without labels."""
    if labels == NO_LABELS or (labels is None and pictures.labels is None):
        return None, []
    if labels is None:
        return _numbered([str(label) for label in pictures.labels or ()], path)
    if pictures.kind not in ("folder", "zip"):
        what, kind = f"--labels {labels} is for images with names", f"an {pictures.kind} file"
        raise HarnessError(what, where="--labels", found=kind, expected="no --labels, for the classes in the file, or none")
    return _numbered(_of_folders(pictures.names, path) if labels == FROM_FOLDERS else _of_file(pictures, labels, path), path)


def _of_folders(names: Sequence[str], path: Path) -> list[str]:
    """The first folder of each image below the deepest one that all images share."""
    parts = [PurePosixPath(name).parts[:-1] for name in names]
    shared = 0
    while all(len(folders) > shared and folders[shared] == parts[0][shared] for folders in parts):
        shared += 1
    if bare := next((name for name, folders in zip(names, parts, strict=True) if len(folders) == shared), None):
        expected = "CLASS/IMAGE, a folder for each of several classes"
        what = "an image is in no folder of a class"
        raise HarnessError(what, where=path, found=bare, expected=expected, nearest="--labels labels.csv, or no --labels")
    return [folders[shared] for folders in parts]


def _of_file(pictures: Pictures, labels: str, path: Path) -> list[str]:
    """The class of each image from a CSV file of image, class; a first line that names no image is a heading."""
    beside = user_path(labels, "--labels")
    file = beside if beside.is_file() or not path.is_dir() else path / labels
    if not file.is_file():
        expected = f"{FROM_FOLDERS}, {NO_LABELS}, or a CSV file of image, class"
        raise MissingFile("no such file of labels", where="--labels", found=labels, expected=expected)
    expected = "lines of image, class: rose/1.png,rose"
    with reading(file, expected, csv.Error):
        lines = [line for line in csv.reader(io.StringIO(read_regular(file, _MOST_BYTES).decode("utf-8-sig"))) if line]
    if wrong := next((line for line in lines if len(line) != 2), None):
        raise damaged(file, ",".join(wrong)[:200], expected)
    known = {name: name for name in pictures.names}
    known |= {base: name for name in pictures.names if (base := PurePosixPath(name).name) not in known}
    if lines and lines[0][0].strip() not in known:
        lines = lines[1:]
    listed: dict[str, str] = {}
    for image, label in ((image.strip(), label.strip()) for image, label in lines):
        if image not in known or not label or known[image] in listed:
            why = "no such image" if image not in known else "no class" if not label else "an image that is listed twice"
            raise damaged(file, f"{image}: {why}", "every image once, with its class")
        listed[known[image]] = label
    if absent := next((name for name in pictures.names if name not in listed), None):
        raise damaged(file, f"{absent} is not listed", "every image once, with its class")
    return [listed[name] for name in pictures.names]


def _numbered(labels: Sequence[str], path: Path) -> tuple[list[int], list[str]]:
    """Classes counted from 0, in the order of their numbers or names. Raises HarnessError for one class, or nearly one for each image."""
    distinct = set(labels)
    whole = all(label.removeprefix("-").isascii() and label.removeprefix("-").isdecimal() and len(label) < 19 for label in distinct)
    names = sorted(distinct, key=int) if whole else sorted(distinct)
    if not 2 <= len(names) <= len(labels) // 2:
        found = f"{len(names)} class{'es' * (len(names) != 1)} of {len(labels)} images" + (f" ({names[0]})" if len(names) == 1 else "")
        expected, advice = "at least two classes, of two images or more on average", f"--labels {NO_LABELS}"
        raise HarnessError("these labels tell no classes apart", where=path, found=found, expected=expected, nearest=advice)
    number = {name: place for place, name in enumerate(names)}
    return [number[label] for label in labels], names
