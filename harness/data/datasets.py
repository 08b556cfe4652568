"""Data sets by name: uint8 images (or float points), checked on the way in, resident on the device, converted row by row.

`load` never copies a whole set to float: ImageNet-32 is 3.9 GB as uint8 and would be 15.7 GB. On the CPU a prepared set stays
memory-mapped; to a GPU it goes from the map in pieces of 64 MiB.
"""

from __future__ import annotations

import gzip
import socket
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import pi, prod
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from harness.core.randomness import address, generator
from harness.data.arrays import Part, digest, open_part, read_manifest
from harness.data.catalogue import REGISTRY, TOYS, DatasetInfo, info
from harness.errors import HarnessError, unknown
from harness.locations import data_root

__all__ = ["REGISTRY", "TOYS", "Dataset", "DatasetInfo", "Split", "balanced_order", "data_root", "info", "load", "sample_toy", "verify"]

Split = Literal["train", "heldout", "all"]
_SEED = 20250709  # of the fixed toy sets and of the digits' split; training seeds never enter here
_PIECE = 64 << 20  # bytes on their way to the device at a time


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split on one device. images: uint8 (N, C, H, W); for toys, points: float32 (N, d) instead. labels: int64 (N,) or None.

    sha256 names the content: equal content, split and limit give equal values on every machine.
    """

    name: str
    split: str
    sha256: str
    images: Tensor | None = None
    points: Tensor | None = None
    labels: Tensor | None = None

    @property
    def rows(self) -> Tensor:
        """The images or the points, as stored."""
        return self.points if self.images is None else self.images

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.rows.shape[1:])

    @property
    def dim(self) -> int:
        return prod(self.shape)

    @property
    def classes(self) -> int | None:
        return info(self.name).classes

    def batch(self, indices: Tensor | Sequence[int]) -> Tensor:
        """float32 rows (n, C, H, W) in [-1, 1] (pixel / 127.5 - 1), or the points (n, d) as they are. Converts these rows only."""
        rows = self.rows[torch.as_tensor(indices, dtype=torch.int64).to(self.rows.device, non_blocking=True)]
        return rows if self.images is None else rows.to(torch.float32).div_(127.5).sub_(1)


def load(
    name: str,
    split: Split = "train",
    *,
    limit: int | None = None,
    device: torch.device | str = "cpu",
    root: str | Path | None = None,
    size: int | None = None,
) -> Dataset:
    """The split, on `device`. limit: that many rows only, of each class alike as far as they last, nested (100 lie within 200).

    root: the data folder; $HARNESS_DATA, else data/ in the project. size: rows of each split of a toy set; 4,096.
    Raises HarnessError for an unknown name or split, a missing, damaged or wrong file, a limit or size out of range.
    """
    item = info(name)
    if split not in get_args(Split):
        raise unknown("split", split, get_args(Split), where=name)
    if size is not None:
        if name not in TOYS or size < 1:
            raise HarnessError("only a toy set takes a size", where=name, found=size, expected="a toy set, and at least 1")
        item = replace(item, train=size, heldout=size)
    parts = _parts(item, split, data_root(root))
    sha256 = parts[0].sha256 if len(parts) == 1 else digest(*(part.sha256 for part in parts))
    labels = None if parts[0].labels is None else np.concatenate([part.labels for part in parts])
    total = sum(len(part.rows) for part in parts)
    chosen = None
    if limit is not None and not 1 <= limit <= total:
        raise HarnessError("limit is out of range", where=f"{name}, {split}", found=limit, expected=f"1 to {total}")
    if limit is not None and limit < total:
        chosen = np.arange(limit) if labels is None else np.sort(balanced_order(labels)[:limit])
        labels = None if labels is None else labels[chosen]
        sha256 = digest(sha256, str(limit))
    rows = _resident([part.rows for part in parts], chosen, torch.device(device))
    labels = None if labels is None else torch.from_numpy(labels).to(device)
    return Dataset(name, split, sha256, labels=labels, **{"points" if name in TOYS else "images": rows})


def verify(name: str, root: str | Path | None = None, *, full: bool = True) -> str:
    """Check a set without keeping it: every byte, or (full=False) what `load` checks. Returns one line that says what is there.

    Raises the HarnessError that `load` would raise.
    """
    item, base = info(name), data_root(root)
    counts = {split: len(_read(item, split, base, full=full).rows) for split in _splits(item, base)}
    return f"{name}: " + ", ".join(f"{count:,} {split}" for split, count in counts.items())


def balanced_order(labels: np.ndarray) -> np.ndarray:
    """All row indices, round after round of one row of each class, so that any first n are balanced as far as the classes last."""
    by_class = np.argsort(labels, kind="stable")
    ordered = labels[by_class]
    turn = np.empty(len(labels), dtype=np.int64)
    turn[by_class] = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return np.lexsort((labels, turn))


def _parts(item: DatasetInfo, split: str, base: Path) -> list[Part]:
    if split == "all" and item.name != "digits":
        return [_read(item, one, base) for one in _splits(item, base)]
    return [_read(item, split, base)]


def _splits(item: DatasetInfo, base: Path) -> list[str]:
    there = read_manifest(item, base)["splits"] if item.source else ("train", "heldout")
    return [split for split in ("train", "heldout") if split in there]


def _read(item: DatasetInfo, split: str, base: Path, *, full: bool = False) -> Part:
    if item.source:
        return open_part(item, split, base, full=full)
    if item.name in TOYS:
        return _toy(item, split)
    return _digits(split) if item.name == "digits" else _fashion(item, split, base)


def _resident(parts: list[np.ndarray], chosen: np.ndarray | None, device: torch.device) -> Tensor:
    """The chosen rows (None: all) of the concatenated parts as one tensor; a single whole part on the CPU is not even copied."""
    if chosen is None and len(parts) == 1 and device.type == "cpu":
        return torch.from_numpy(parts[0])
    sample = torch.from_numpy(parts[0][:1])
    count = sum(map(len, parts)) if chosen is None else len(chosen)
    out = torch.empty((count, *sample.shape[1:]), dtype=sample.dtype, device=device)
    step = max(1, _PIECE // sample.nbytes)
    before = at = 0
    for part in parts:
        mine = None if chosen is None else chosen[(chosen >= before) & (chosen < before + len(part))] - before
        for start in range(0, len(part if mine is None else mine), step):
            piece = part[start : start + step] if mine is None else part[mine[start : start + step]]
            out[at : at + len(piece)].copy_(torch.from_numpy(piece))
            at += len(piece)
        before += len(part)
    return out


def sample_toy(name: str, n: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """n fresh points, float32 (n, 2), and the mode each comes from, int64 (n,), both on the generator's device.

    two-gaussians: centres (0, -0.5), (0, 0.5), std 0.01 (the paper's toy, Figure 1). eight-gaussians: on a circle of radius 0.7, std
    0.03 (0.5 a coordinate, as sigma_data). two-moons: half circles of radius 1, noise 0.05, centred and scaled by 0.6.
    """
    if name not in TOYS:
        raise unknown("toy set", name, TOYS)
    like = {"device": draws.device, "dtype": torch.float64}  # rounded once at the end, so that machines agree
    mode = torch.randint(REGISTRY[name].classes, (n,), generator=draws, device=draws.device)
    noise = torch.randn(n, 2, generator=draws, **like)
    if name == "two-gaussians":
        points = torch.stack([torch.zeros(n, **like), mode - 0.5], dim=1) + 0.01 * noise
    elif name == "eight-gaussians":
        angle = mode * (pi / 4)
        points = 0.7 * torch.stack([angle.cos(), angle.sin()], dim=1) + 0.03 * noise
    else:
        angle = pi * torch.rand(n, generator=draws, **like)
        upper = torch.stack([angle.cos(), angle.sin()], dim=1)
        centred = torch.where(mode[:, None] == 0, upper, torch.tensor([1, 0.5], **like) - upper) - torch.tensor([0.5, 0.25], **like)
        points = 0.6 * (centred + 0.05 * noise)
    return points.to(torch.float32), mode


def _toy(item: DatasetInfo, split: str) -> Part:
    held = split == "heldout"
    draws = generator(_SEED, "measure", step=2 * TOYS.index(item.name) + held)
    points, mode = (found.numpy() for found in sample_toy(item.name, item.heldout if held else item.train, draws))
    return Part(points, mode, digest(points, mode))


_DIGITS_SHA256 = "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"  # of the 1,797 x 64 grey levels 0..16


def _digits(split: str) -> Part:
    """The 1,797 digits (UCI optical digits, by scikit-learn): levels 0..16 become round(level * 255 / 16)."""
    from sklearn.datasets import load_digits  # takes a second to import

    found = load_digits()
    levels, labels = found.images.astype(np.uint8), found.target.astype(np.int64)
    if (sha256 := digest(levels)) != _DIGITS_SHA256:
        raise HarnessError("not the 1,797 known digits", where="scikit-learn's load_digits", found=sha256, expected=_DIGITS_SHA256)
    images = np.rint(levels * (255 / 16)).astype(np.uint8)[:, None]
    if split != "all":
        held = np.zeros(len(labels), dtype=bool)
        held[_held_out_digits(labels)] = True
        images, labels = (array[held if split == "heldout" else ~held] for array in (images, labels))
    return Part(images, labels, digest(images, labels))


def _held_out_digits(labels: np.ndarray) -> np.ndarray:
    """The 360 held-out rows, first of an addressed permutation that is stratified: each class gives its share to within one row."""
    shuffled = np.argsort([address(_SEED, "order", row) for row in range(len(labels))])
    share = np.empty(len(labels))
    for digit in range(10):
        members = shuffled[labels[shuffled] == digit]
        share[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(share, kind="stable")[: REGISTRY["digits"].heldout]


_DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
_FASHION_SHA256 = {  # of the uncompressed idx files: archives differ in their gzip headers
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def _fashion(item: DatasetInfo, split: str, base: Path) -> Part:
    """Fashion-MNIST (arXiv 1708.07747), padded from 28 to 32 with background: below `base`, from Debian's package, or downloaded."""
    places = (base / "fashion-mnist", base / "FashionMNIST" / "raw", base, _DEBIAN_FASHION)
    folder = next((place for place in places if all(_idx_file(place, stem) for stem in _FASHION_SHA256)), None) or _download_fashion(base)
    stem = "t10k" if split == "heldout" else "train"
    images, images_sum = read_idx(_idx_file(folder, f"{stem}-images-idx3-ubyte"))
    labels, labels_sum = read_idx(_idx_file(folder, f"{stem}-labels-idx1-ubyte"))
    count = item.heldout if split == "heldout" else item.train
    if images.shape != (count, 28, 28) or labels.shape != (count,) or labels.max() >= item.classes:
        found, expected = f"images {images.shape}, labels {labels.shape}", f"images {(count, 28, 28)}, labels {(count,)}, 0 to 9"
        raise HarnessError("wrong Fashion-MNIST", where=folder, found=found, expected=expected, nearest=item.mend)
    return Part(np.pad(images, ((0, 0), (2, 2), (2, 2)))[:, None], labels.astype(np.int64), digest(images_sum, labels_sum))


def _idx_file(folder: Path, stem: str) -> Path | None:
    return next((path for path in (folder / f"{stem}.gz", folder / stem) if path.is_file()), None)


def read_idx(path: Path) -> tuple[np.ndarray, str]:
    """The uint8 array of an idx file (plain, or .gz) and the SHA-256 of its bytes. Raises HarnessError for a damaged or another file."""
    mend = f"remove the file, then {info('fashion-mnist').needs}"
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise HarnessError("damaged or unreadable file", where=path, found=error, expected="a whole idx file", nearest=mend) from None
    head = 4 + 4 * raw[3] if len(raw) > 3 and raw[:3] == b"\0\0\x08" else 0
    shape = tuple(np.frombuffer(raw[4:head], ">u4").tolist()) if head and len(raw) >= head else None
    if shape is None or len(raw) != head + prod(shape):
        expected = "an idx file of bytes" if shape is None else f"{head + prod(shape)} bytes"
        raise HarnessError("damaged or another kind of file", where=path, found=f"{len(raw)} bytes", expected=expected, nearest=mend)
    sha256, known = digest(np.frombuffer(raw, np.uint8)), _FASHION_SHA256.get(path.name.removesuffix(".gz"))
    if known is not None and sha256 != known:
        raise HarnessError("checksum mismatch", where=path, found=sha256, expected=known, nearest=mend)
    return np.frombuffer(bytearray(raw), np.uint8, offset=head).reshape(shape), sha256


def _download_fashion(base: Path) -> Path:
    """torchvision's download, which checks MD5 sums; moved into <base>/fashion-mnist file by file, so that none is ever half there."""
    from torchvision.datasets import FashionMNIST  # takes seconds to import

    target, timeout = base / "fashion-mnist", socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # torchvision sets none: a silent firewall would hang the run
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=base, prefix=".fashion-mnist-") as scratch:
            FashionMNIST(scratch, train=False, download=True)
            for path in (Path(scratch) / "FashionMNIST" / "raw").glob("*.gz"):
                path.replace(target / path.name)
    except (OSError, RuntimeError) as error:
        found = f"neither below {base} nor in {_DEBIAN_FASHION}; download: {' '.join(str(error).split())}"
        raise HarnessError("Fashion-MNIST is not here", where=target, found=found, nearest=info("fashion-mnist").needs) from None
    finally:
        socket.setdefaulttimeout(timeout)
    return target
