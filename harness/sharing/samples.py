"""Samples of a trained model as files: a folder of PNG images, the npz that ADM's evaluator reads, or an array of points.

    DIR/        000000.png, 000001.png, ...; labels.csv (file, label) of a conditional model; export.json, what it was made from
    FILE.npz    arr_0: uint8 (N, H, W, C), or float32 (N, d) for points; arr_1: int64 (N,), the classes of a conditional model; export.json
    FILE.npy    points only: float32 (N, d)

Nothing depends on the time, the name of the target or who exports: equal arguments and code give equal files, up to rounding between
devices.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from harness.errors import HarnessError
from harness.metrics.reference_statistics import MetricOptions
from harness.sharing.facts import exported_by
from harness.sharing.model import BATCH, MOST, Labels, TrainedModel
from harness.sharing.targets import MANIFEST, check_target, new_folder
from harness.store.files import atomic_file, encode, write_atomic

ARRAYS = (".npz", ".npy")
LABELS = "labels.csv"


class Part(NamedTuple):
    """Consecutive samples as they are written: uint8 (n, H, W, C) or float32 (n, d), and their classes (n,) or None."""

    values: np.ndarray
    labels: np.ndarray | None


def check_samples(model: TrainedModel, n: int, target: Path, where: str, overwrite: bool) -> None:
    """Raises HarnessError, before anything is computed, if n samples cannot be written there: a number out of range, a kind of file that
    does not fit the samples, and as `check_target`."""
    if not 1 <= n <= MOST:
        raise HarnessError("a number of samples out of range", where="--samples", found=n, expected=f"1 to {MOST:,}")
    suffix = target.suffix.lower()
    is_array = suffix in ARRAYS
    if model.is_images:
        if suffix == ".npy":
            raise HarnessError("images are written as a folder or npz", where=where, found=target.name, expected="DIR or FILE.npz")
        if not is_array and model.shape[0] not in (1, 3):
            found, expected = f"{model.shape[0]} channels", "1 or 3 channels; FILE.npz takes any number"
            raise HarnessError("PNG cannot store these images", where=where, found=found, expected=expected)
    elif not is_array:
        raise HarnessError("points are written as an array", where=where, found=target.name, expected="FILE.npz or FILE.npy")
    if suffix[1:].isalpha() and not is_array:
        raise HarnessError("an unknown kind of file", where=where, found=target.name, expected="DIR or FILE.npz; FILE.npy for points")
    check_target(target, where, overwrite, folder=not is_array)


def write_samples(
    model: TrainedModel,
    n: int,
    target: Path,
    steps: int | None = None,
    labels: Labels = None,
    seed: int = 0,
    times: Sequence[float] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Writes samples 0 to n - 1, completely or not at all. See `TrainedModel.sample` for the arguments, `check_samples` for what is
    written.

    progress: called with the number of samples that are done. Raises HarnessError as `TrainedModel.sample`, for samples that are not
    finite, and on a full or unwritable disk.
    """
    facts = _facts(model, n, steps, labels, seed, times)
    parts = _counted(_parts(model, n, steps, labels, seed, times), progress)
    if target.suffix.lower() == ".npz":
        _write_npz(target, (n, *_shape(model)), parts, facts)
    elif target.suffix.lower() == ".npy":
        with atomic_file(target) as file:
            _write_array(file, (n, *_shape(model)), np.dtype(np.float32), (part.values for part in parts))
    else:
        with new_folder(target) as folder:
            _write_images(folder, parts)
            write_atomic(folder / MANIFEST, encode(facts))


def _facts(model: TrainedModel, n: int, steps: int | None, labels: Labels, seed: int, times: Sequence[float] | None) -> dict[str, Any]:
    """What the samples were made from."""
    levels = model.times_of(steps, times)
    how: dict[str, Any] = {"n": n, "steps": len(levels) + 1, "times": list(levels), "seed": seed}
    how |= {"renoising": model.run.evaluation.renoising} if levels else {}
    if model.classes:
        how["labels"] = labels if isinstance(labels, str | int) else model.run.evaluation.labels if labels is None else "given"
    if model.is_images:
        how |= {name: getattr(model.run.protocol, name) for name in ("sample_range", "quantisation")}
    return {"samples": how, "model": dict(model.facts), "exported": exported_by()}


def _shape(model: TrainedModel) -> tuple[int, ...]:
    """Of one sample as it is written: (H, W, C), or (d,)."""
    return (*model.shape[1:], model.shape[0]) if model.is_images else model.shape


def _parts(model: TrainedModel, n: int, steps: int | None, labels: Labels, seed: int, times: Sequence[float] | None) -> Iterator[Part]:
    """The samples in the batches in which an evaluation quantises them: on it depends what protocol.sample_range = "released" gives."""
    together, rest = divmod(MetricOptions.batch, BATCH)
    assert not rest, "a batch of an evaluation consists of whole blocks"
    blocks = model.blocks(range(n), steps, labels, seed, times)
    while batch := [*islice(blocks, together)]:
        x = torch.cat([block for block, _ in batch])
        classes = torch.cat([of for _, of in batch if of is not None]).numpy() if model.classes else None
        yield Part(model.pixels(x) if model.is_images else _finite(x), classes)


def _finite(x: torch.Tensor) -> np.ndarray:
    if bad := int((~x.isfinite()).sum()):
        raise HarnessError("the samples are not finite", where="generated points", found=f"{bad} of {x.numel()} values", expected="none")
    return x.float().cpu().numpy()


def _counted(parts: Iterator[Part], progress: Callable[[int], None]) -> Iterator[Part]:
    done = 0
    for part in parts:
        yield part
        done += len(part.values)
        progress(done)


def _write_npz(path: Path, shape: tuple[int, ...], parts: Iterator[Part], facts: dict[str, Any]) -> None:
    """An uncompressed npz file, as NumPy's savez writes it; the parts are written as they come."""
    labels: list[np.ndarray] = []

    def values() -> Iterator[np.ndarray]:
        for part in parts:
            labels.extend([] if part.labels is None else [part.labels])
            yield part.values

    with atomic_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open(_member("arr_0.npy"), "w", force_zip64=True) as member:
            _write_array(member, shape, np.dtype(np.uint8 if len(shape) == 4 else np.float32), values())
        if labels:
            with archive.open(_member("arr_1.npy"), "w", force_zip64=True) as member:
                _write_array(member, shape[:1], np.dtype(np.int64), iter(labels))
        archive.writestr(_member(MANIFEST), encode(facts))


def _member(name: str) -> zipfile.ZipInfo:
    """A member of an npz file that anybody may read, without the time at which it was written."""
    member = zipfile.ZipInfo(name)
    member.external_attr = 0o644 << 16
    return member


def _write_array(file: Any, shape: tuple[int, ...], dtype: np.dtype, parts: Iterator[np.ndarray]) -> None:
    """An array in NumPy's format, from parts along its first axis."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for part in parts:
        assert part.shape[1:] == shape[1:], "the parts are samples of the model"
        file.write(np.ascontiguousarray(part, dtype).tobytes())


def _write_images(folder: Path, parts: Iterator[Part]) -> None:
    """PNG files numbered from 0, and labels.csv if the samples have classes."""
    number, rows = 0, [["file", "label"]]
    for values, labels in parts:
        for i, image in enumerate(values):
            name = f"{number:06d}.png"
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(folder / name)
            rows += [] if labels is None else [[name, str(labels[i])]]
            number += 1
    if len(rows) > 1:
        with (folder / LABELS).open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
