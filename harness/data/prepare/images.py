"""Encoded images to uint8 rows: decoding, resizing recipes, and a pool of threads that does both.

A recipe is FIT-FILTER, and the manifest records it. FIT: shorter (shorter side to size, centre crop), square (centre crop to a square,
then resize), squash (resize, whatever the shape), cropN (centre crop of N x N, then resize). FILTER: box, bilinear, bicubic, lanczos,
all with antialiasing. Two more: exact (no resizing, another size is an error) and adm (halve by box while twice the size or more, then
the shorter side by bicubic, centre crop: Dhariwal and Nichol, arXiv 2105.05233, which EDM follows for ImageNet-64).
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps
from PIL.Image import Resampling

from harness.data.prepare.source import Chunk, SplitSource, reading
from harness.errors import HarnessError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
ROWS = 1024
_FILTERS = {"box": Resampling.BOX, "bilinear": Resampling.BILINEAR, "bicubic": Resampling.BICUBIC, "lanczos": Resampling.LANCZOS}
_RECIPE = re.compile(r"(shorter|square|squash|crop(\d+))-(" + "|".join(_FILTERS) + ")")

Resize = Callable[[Image.Image], Image.Image]


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


def decode(data: bytes, where: object, resize: Resize, *, sizes: set[tuple[int, int]] | None = None, smallest: int = 1) -> np.ndarray:
    """uint8 (3, S, S) from an encoded image. Raises HarnessError, naming the image, if it is damaged, not of one of `sizes` (width, height)
    or has a side below `smallest`."""
    with reading(where, "an image", SyntaxError, Image.DecompressionBombError), Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
    if min(image.size) < smallest or (sizes is not None and image.size not in sizes):
        expected = " or ".join(f"{w}x{h}" for w, h in sorted(sizes)) if sizes else f"each side at least {smallest}"
        raise HarnessError("wrong image size", where=where, found=f"{image.width}x{image.height}", expected=expected)
    try:
        return np.asarray(resize(image)).transpose(2, 0, 1)
    except ValueError as error:
        raise HarnessError("wrong image size", where=where, found=error, expected="an image that the recipe can resize") from None


def image_split(count: int, row: Callable[[int], np.ndarray], labels: Sequence[int] | None = None) -> SplitSource:
    """A split of `count` images, row(i) decoding one, a thousand at a time in one thread per core (Pillow releases the GIL)."""
    counted = None if labels is None else np.asarray(labels, dtype=np.int64)

    def chunks(start: int) -> Generator[Chunk]:
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            for first in range(start, count, ROWS):
                indices = range(first, min(first + ROWS, count))
                images = np.stack(list(pool.map(row, indices)))
                yield images, None if counted is None else counted[indices.start : indices.stop]

    return SplitSource(count, chunks)
