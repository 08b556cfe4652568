"""Data sets by name: uint8 images (or float points), checked when they are read, resident on the device, converted row by row.

`load` never copies a complete set to float: ImageNet-32 is 3.9 GB as uint8 and would be 15.7 GB. On the CPU a prepared set stays
memory-mapped; it is copied to a GPU in pieces of 64 MiB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi, prod
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from harness.core.randomness import address, generator
from harness.data.arrays import SplitArrays, digest, open_split, read_manifest
from harness.data.catalogue import REGISTRY, TOYS, DatasetInfo, RareClass, info
from harness.data.fashion import read_fashion
from harness.errors import DamagedFile, HarnessError, unknown
from harness.locations import data_root

Split = Literal["train", "heldout", "all"]  # all: of the digits only
_SEED = 20250709  # of the fixed toy sets and of the digits' split; independent of the training seeds
_PIECE = 64 << 20  # bytes copied to the device at a time


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split on one device. rows: images, uint8 (N, C, H, W), or the points of a toy set, float32 (N, d). labels: int64 (N,) or None.

    sha256 names the content: equal content, split and limit give equal values on every machine.
    """

    name: str
    split: str
    sha256: str
    rows: Tensor
    labels: Tensor | None = None

    @property
    def is_images(self) -> bool:
        """False for the points of a toy set."""
        return self.rows.dtype == torch.uint8

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.rows.shape[1:])

    @property
    def dim(self) -> int:
        return prod(self.shape)

    @property
    def classes(self) -> int:
        """0 where unlabelled."""
        return info(self.name).classes

    @property
    def rare_class(self) -> int | None:
        """The class that is rare in this set; None if none is, and for data outside the catalogue."""
        rare = REGISTRY[self.name].rare if self.name in REGISTRY else None
        return rare.label if rare else None

    def batch(self, indices: Tensor | Sequence[int]) -> Tensor:
        """float32 rows (n, C, H, W) in [-1, 1] (pixel / 127.5 - 1), or the points (n, d) as they are. Converts these rows only."""
        rows = self.rows[torch.as_tensor(indices, dtype=torch.int64).to(self.rows.device, non_blocking=True)]
        return rows.to(torch.float32).div_(127.5).sub_(1) if self.is_images else rows


def load(
    name: str,
    split: Split = "train",
    *,
    limit: int | None = None,
    at_most: int | None = None,
    device: torch.device | str = "cpu",
    root: str | Path | None = None,
) -> Dataset:
    """The split, on `device`. limit: only that many rows, equally many of each class where possible, nested (100 lie within 200); of a
    set with a rare class, each class keeps its share. These rows, for training, are the first of each class.

    at_most: of a larger split a random draw of that many rows, for what is measured (see `drawn_rows`); not together with limit.
    root: the data folder; $HARNESS_DATA, else data/ in the project. Raises HarnessError for an unknown name or split, a missing, damaged
    or wrong file, a limit out of range.
    """
    splits = get_args(Split) if name == "digits" else ("train", "heldout")
    if split not in splits:
        raise unknown("split", split, splits, where=name)
    stored = _read(info(name), split, data_root(root))
    labels, sha256, chosen = stored.labels, stored.sha256, None
    if limit is not None and not 1 <= limit <= len(stored.rows):
        raise HarnessError("limit is out of range", where=f"{name}, {split}", found=limit, expected=f"1 to {len(stored.rows)}")
    if limit is not None and limit < len(stored.rows):
        order_by_class = proportional_order if info(name).rare else balanced_order
        chosen = np.arange(limit) if labels is None else np.sort(order_by_class(labels)[:limit])
        labels = None if labels is None else labels[chosen]
        sha256 = digest(sha256, str(limit))
    elif limit is None and at_most is not None and at_most < len(stored.rows):
        chosen = drawn_rows(labels, len(stored.rows), at_most)
        labels = None if labels is None else labels[chosen]
        sha256 = digest(sha256, f"{at_most} drawn")
    rows = _resident(stored.rows, chosen, torch.device(device))
    return Dataset(name, split, sha256, rows, None if labels is None else torch.from_numpy(labels).to(device))


def verify(name: str, root: str | Path | None = None, *, full: bool = True) -> str:
    """Checks a set without keeping it: every byte, or (full=False) what `load` checks. Returns one line with the rows of each split.

    Raises the HarnessError that `load` would raise.
    """
    dataset, base = info(name), data_root(root)
    splits = read_manifest(dataset, base)["splits"] if dataset.source else ("train", "heldout")
    counts = {split: len(_read(dataset, split, base, full=full).rows) for split in splits}
    return f"{name}: " + ", ".join(f"{count:,} {split}" for split, count in counts.items())


def balanced_order(labels: np.ndarray) -> np.ndarray:
    """All row indices, round after round of one row of each class, so that any first n are balanced as long as the classes last."""
    return np.lexsort((labels, _place_in_class(labels)))


def proportional_order(labels: np.ndarray) -> np.ndarray:
    """All row indices, ordered so that any first n hold each class in its share, to within one row."""
    rows_of_class = np.bincount(labels)
    return np.argsort((_place_in_class(labels) + 0.5) / rows_of_class[labels], kind="stable")


def drawn_rows(labels: np.ndarray | None, rows: int, n: int) -> np.ndarray:
    """The sorted indices of n of `rows` rows, drawn at random, the same every time.

    labels: classes (rows,), or None. Each class has its share of the draw, rounded up or down: equal shares where the classes are equally
    large, as in ImageNet's validation set. For this the rows, class after class, are sampled systematically from a random start.
    """
    draws = generator(_SEED, "labels")
    order = torch.randperm(rows, generator=draws).numpy()
    if labels is None:
        return np.sort(order[:n])
    start = torch.randint(rows, (), generator=draws).item()
    by_class = order[np.argsort(labels[order], kind="stable")]
    return np.sort(by_class[(np.arange(n) * rows + start) // n])


def row_count(name: str, split: Literal["train", "heldout"], root: str | Path | None = None) -> int:
    """Rows of a split without reading them, 0 for a split that was not prepared. Raises HarnessError for an unknown or unprepared set."""
    dataset = info(name)
    if not dataset.source:
        return dataset.train if split == "train" else dataset.heldout
    splits = read_manifest(dataset, data_root(root))["splits"]
    return int(splits[split]["count"]) if split in splits else 0


def _place_in_class(labels: np.ndarray) -> np.ndarray:
    """How many earlier rows have the label of each row."""
    by_class = np.argsort(labels, kind="stable")
    ordered = labels[by_class]
    place = np.empty(len(labels), dtype=np.int64)
    place[by_class] = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return place


def _read(dataset: DatasetInfo, split: str, base: Path, *, full: bool = False) -> SplitArrays:
    if dataset.rare:
        return _with_rare_class(_read(info(dataset.base), split, base, full=full), dataset.rare)
    if dataset.source:
        return open_split(dataset, split, base, full=full)
    if dataset.name in TOYS:
        return _toy(dataset, split)
    return _digits(split) if dataset.name == "digits" else read_fashion(dataset, split, base)


def _with_rare_class(complete: SplitArrays, rare: RareClass) -> SplitArrays:
    """The split in which the class keeps so many rows, chosen by address, that its share is nearest to `rare.share`."""
    assert complete.labels is not None, "a class is rare by its labels"
    members = np.flatnonzero(complete.labels == rare.label)
    others = len(complete.labels) - len(members)
    kept = round(rare.share / (1 - rare.share) * others)
    order = sorted(members.tolist(), key=lambda row: address(_SEED, "labels", row))
    chosen = np.sort(np.concatenate([np.flatnonzero(complete.labels != rare.label), order[:kept]]))
    rows, labels = complete.rows[chosen], complete.labels[chosen]
    return SplitArrays(rows, labels, digest(rows, labels))


def _resident(stored: np.ndarray, chosen: np.ndarray | None, device: torch.device) -> Tensor:
    """The chosen rows (None: all) as one tensor on the device. A complete set on the CPU is not copied."""
    if chosen is None and device.type == "cpu":
        return torch.from_numpy(stored)
    indices = np.arange(len(stored)) if chosen is None else chosen
    sample = torch.from_numpy(stored[:1])
    rows = torch.empty((len(indices), *sample.shape[1:]), dtype=sample.dtype, device=device)
    step = max(1, _PIECE // sample.nbytes)
    for start in range(0, len(indices), step):
        piece = slice(start, start + step)
        rows[piece].copy_(torch.from_numpy(stored[indices[piece]]))
    return rows


def sample_toy(name: str, n: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """n fresh points, float32 (n, 2), and the mode each comes from, int64 (n,), both on the generator's device.

    two-gaussians: centres (0, -0.5), (0, 0.5), std 0.01 (the paper's toy, Figure 1). eight-gaussians: on a circle of radius 0.7, std
    0.03 (0.5 per coordinate, as sigma_data). gaussian: one centre, (0, 0), std 0.5. two-moons: half circles of radius 1, noise 0.05,
    centred and scaled by 0.6. The modes have equal shares, but for a rare one.
    """
    if name not in TOYS:
        raise unknown("toy set", name, TOYS)
    device, dtype = draws.device, torch.float64  # rounded once at the end, so that machines agree
    dataset = REGISTRY[name]
    if dataset.rare:
        shares = torch.full((dataset.classes,), (1 - dataset.rare.share) / (dataset.classes - 1), device=device, dtype=dtype)
        shares[dataset.rare.label] = dataset.rare.share
        mode = torch.multinomial(shares, n, replacement=True, generator=draws)
    else:
        mode = torch.randint(dataset.classes, (n,), generator=draws, device=device)
    noise = torch.randn(n, 2, generator=draws, device=device, dtype=dtype)
    if dataset.base == "two-gaussians":
        points = torch.stack([torch.zeros(n, device=device, dtype=dtype), mode - 0.5], dim=1) + 0.01 * noise
    elif dataset.base == "eight-gaussians":
        angle = mode * (pi / 4)
        points = 0.7 * torch.stack([angle.cos(), angle.sin()], dim=1) + 0.03 * noise
    elif dataset.base == "gaussian":
        points = 0.5 * noise
    else:
        angle = pi * torch.rand(n, generator=draws, device=device, dtype=dtype)
        upper = torch.stack([angle.cos(), angle.sin()], dim=1)
        lower = upper.new_tensor([1, 0.5]) - upper
        centred = torch.where(mode[:, None] == 0, upper, lower) - upper.new_tensor([0.5, 0.25])
        points = 0.6 * (centred + 0.05 * noise)
    return points.to(torch.float32), mode


def _toy(dataset: DatasetInfo, split: str) -> SplitArrays:
    heldout = split == "heldout"
    draws = generator(_SEED, "measure", step=2 * TOYS.index(dataset.name) + heldout)
    points, mode = (tensor.numpy() for tensor in sample_toy(dataset.name, dataset.heldout if heldout else dataset.train, draws))
    return SplitArrays(points, mode, digest(points, mode))


_DIGITS_SHA256 = "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"  # of the 1,797 x 64 grey levels 0..16


def _digits(split: str) -> SplitArrays:
    """The 1,797 digits (UCI optical digits, from scikit-learn): levels 0..16 become round(level * 255 / 16)."""
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    levels, labels = digits.images.astype(np.uint8), digits.target.astype(np.int64)
    if (sha256 := digest(levels)) != _DIGITS_SHA256:
        raise DamagedFile("not the 1,797 known digits", where="scikit-learn's load_digits", found=sha256, expected=_DIGITS_SHA256)
    images = np.rint(levels * (255 / 16)).astype(np.uint8)[:, None]
    if split != "all":
        heldout = np.isin(np.arange(len(labels)), _held_out_digits(labels))
        chosen = heldout if split == "heldout" else ~heldout
        images, labels = images[chosen], labels[chosen]
    return SplitArrays(images, labels, digest(images, labels))


def _held_out_digits(labels: np.ndarray) -> np.ndarray:
    """The 360 held-out rows: the first of an addressed, stratified permutation, so each class has its share to within one row."""
    shuffled = np.argsort([address(_SEED, "order", row) for row in range(len(labels))])
    share = np.empty(len(labels))
    for digit in range(10):
        members = shuffled[labels[shuffled] == digit]
        share[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(share, kind="stable")[: REGISTRY["digits"].heldout]
