"""Encoded images to uint8 rows: decoding, resizing recipes, and a pool of threads that does both.

A recipe is FIT-FILTER, and the manifest records it. FIT: shorter (shorter side to size, centre crop), square (centre crop to a square,
then resize), squash (resize, whatever the shape), cropN (centre crop of N x N, then resize). FILTER: box, bilinear, bicubic, lanczos,
all with antialiasing. Two more: exact (no resizing, another size is an error) and adm (halve by box while twice the size or more, then
the shorter side by bicubic, centre crop: Dhariwal and Nichol, arXiv 2105.05233, which EDM follows for ImageNet-64).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.Image import Resampling

from harness.data.prepare.source import AGAIN, Chunk, SplitSource, reading
from harness.errors import DamagedFile, HarnessError
from harness.store.machine import cores

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
ROWS = 1024
MOST_ASPECT = 1000
SKIP = "leave out up to N such images: --skip-damaged N"
_FILTERS = {"box": Resampling.BOX, "bilinear": Resampling.BILINEAR, "bicubic": Resampling.BICUBIC, "lanczos": Resampling.LANCZOS}
_RECIPE = re.compile(r"(shorter|square|squash|crop(\d+))-(" + "|".join(_FILTERS) + ")")

DECODING = (SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for a damaged image besides the errors that `reading` turns into a message in any case."""
Resize = Callable[[Image.Image], Image.Image]
Convert = Callable[[Image.Image, object], Image.Image]
"""(image, where it comes from) -> the image in grey or RGB with 8 bits per channel."""


def resizer(recipe: str, size: int) -> Resize:
    """The function that resizes an RGB image to size x size. Raises HarnessError for an unknown recipe; the function raises ValueError
    for an image that the recipe cannot resize."""
    if recipe == "exact":
        return lambda image: _of_size(image, size)
    if recipe == "adm":
        return lambda image: _adm(image, size)
    parts = _RECIPE.fullmatch(recipe)
    if not parts:
        expected = "(shorter|square|squash|cropN)-(" + "|".join(_FILTERS) + "), exact, or adm"
        raise HarnessError("unknown recipe", where="recipe", found=recipe, expected=expected)
    fit, side, method = parts[1], int(parts[2] or 0), _FILTERS[parts[3]]
    if fit == "shorter":
        return lambda image: _shorter(image, size, method)
    if fit == "square":
        return lambda image: ImageOps.fit(image, (size, size), method)
    if fit == "squash":
        return lambda image: image.resize((size, size), method)
    return lambda image: _centre(image, side).resize((size, size), method)


def _of_size(image: Image.Image, size: int) -> Image.Image:
    if image.size != (size, size):
        raise ValueError(f"{image.width}x{image.height} instead of {size}x{size}")
    return image


def _adm(image: Image.Image, size: int) -> Image.Image:
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _shorter(image: Image.Image, size: int, method: Resampling) -> Image.Image:
    short = min(image.size)
    return _centre(image.resize((size * image.width // short, size * image.height // short), method), size)


def _centre(image: Image.Image, side: int) -> Image.Image:
    if min(image.size) < side:
        raise ValueError(f"{image.width}x{image.height}, smaller than the crop of {side}")
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def decode(
    data: bytes,
    where: object,
    resize: Resize,
    *,
    sizes: set[tuple[int, int]] | None = None,
    smallest: int = 1,
    convert: Convert | None = None,
) -> np.ndarray:
    """uint8 (C, S, S) from an encoded image. Raises HarnessError, naming the image, if it is damaged, not of one of `sizes` (width, height)
    or has a side below `smallest`.

    convert: to the channels of the set; None for `rgb`.
    """
    with reading(where, "an image", *DECODING, nearest=f"{AGAIN}; or {SKIP}"), opened(data) as picture:
        image = (convert or rgb)(picture, where)
    return fitted(image, where, resize, sizes=sizes, smallest=smallest)


def fitted(
    image: Image.Image, where: object, resize: Resize, *, sizes: set[tuple[int, int]] | None = None, smallest: int = 1
) -> np.ndarray:
    """uint8 (C, S, S) from an image in grey or RGB. Raises HarnessError as `decode` for a wrong size."""
    if max(image.size) > MOST_ASPECT * min(image.size):  # a recipe would make it larger still
        found, expected = f"{image.width}x{image.height}", f"no side more than {MOST_ASPECT} times the other"
        raise HarnessError("wrong image size", where=where, found=found, expected=expected, nearest=SKIP)
    if min(image.size) < smallest or (sizes is not None and image.size not in sizes):
        expected = " or ".join(f"{w}x{h}" for w, h in sorted(sizes)) if sizes else f"each side at least {smallest}"
        raise HarnessError("wrong image size", where=where, found=f"{image.width}x{image.height}", expected=expected, nearest=SKIP)
    try:
        pixels = np.asarray(resize(image))
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    except ValueError as error:
        raise HarnessError("wrong image size", where=where, found=error, expected="an image that the recipe can resize") from None


def opened(data: bytes) -> Image.Image:
    """An encoded image, of which only the header is read yet. Raises ValueError, or one of DECODING, for what is no image."""
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:  # its text shows an object of Python
        raise ValueError(f"{len(data):,} bytes that are no image") from None


def rgb(image: Image.Image, where: object) -> Image.Image:
    """The image in RGB with 8 bits per channel; alpha is dropped. 16-bit grey values are divided by 257: black and white stay as they are.

    Raises HarnessError for whole numbers of 32 bits and for floating-point pixels, whose range is not known.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "32-bit whole numbers" if image.mode == "I" else "floating-point numbers"
        expected = "8 or 16 bits per channel"
        raise HarnessError("pixels whose range is not known", where=where, found=kind, expected=expected, nearest="convert the image first")
    return image.convert("RGB")


Rows = Callable[[], AbstractContextManager[Callable[[int], np.ndarray]]]
"""A context that provides row(i), the i-th image of a split, decoded and resized."""


@dataclass(frozen=True)
class ImageSplit(SplitSource):
    """A split of encoded images, of which each can be checked alone. names and labels: of all images, the skipped ones too."""

    names: Sequence[str] = ()
    labels: Sequence[int] | None = None
    rows: Rows = nullcontext  # type: ignore[assignment]  # `image_split` always gives it


def image_split(names: Sequence[str], rows: Rows, labels: Sequence[int] | None = None, skipped: Collection[int] = ()) -> ImageSplit:
    """A split of named images, a thousand at a time in one thread per core, since Pillow releases the GIL.

    skipped: indices of images that are left out.
    """
    counted = None if labels is None else np.asarray(labels, dtype=np.int64)
    kept = np.asarray([index for index in range(len(names)) if index not in skipped], dtype=np.int64)

    def chunks(start: int) -> Generator[Chunk]:
        with rows() as row, ThreadPoolExecutor(cores()) as pool:
            for first in range(start, len(kept), ROWS):
                indices = kept[first : first + ROWS]
                yield np.stack(list(pool.map(row, indices.tolist()))), None if counted is None else counted[indices]

    left_out = tuple(names[index] for index in sorted(skipped))
    return ImageSplit(len(kept), chunks, skipped=left_out, names=names, labels=labels, rows=rows)


def without_damaged(split: ImageSplit, most: int, already: int, show: Callable[[int, int], None]) -> ImageSplit:
    """The split without the images that cannot be decoded or have a wrong size, which a pass over all images finds.

    already: how many of the `most` were left out of other splits. show: called as (images checked, images). Raises HarnessError, which
    names the first such image of this split, if there are more than `most`.
    """
    problems: dict[int, HarnessError] = {}

    def check(index: int) -> None:
        try:
            row(index)
        except HarnessError as error:
            problems[index] = error

    with split.rows() as row, ThreadPoolExecutor(cores()) as pool:
        for first in range(0, len(split.names), ROWS):
            last = min(first + ROWS, len(split.names))
            list(pool.map(check, range(first, last)))
            if already + len(problems) > most:
                error = problems[min(problems)]
                before = f", after {already} of another split" if already else ""
                count = f"{len(problems)} among the first {last:,} images{before}; {error.details.get('found', error.what)}"
                what, where, advice = "too many damaged images", error.details.get("where"), "a larger N, or an undamaged copy"
                raise DamagedFile(what, where=where, found=count, expected=f"at most {most} (--skip-damaged {most})", nearest=advice)
            show(last, len(split.names))
    return image_split(split.names, split.rows, split.labels, skipped=problems)
