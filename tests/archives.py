"""Small archives in their real formats (harness.rehearsal.archives), and what the tests of preparing do with them."""

from __future__ import annotations

import numpy as np

from harness.data.prepare import prepare
from harness.rehearsal.archives import (
    celeba_folder,
    church_lmdb,
    cifar_archive,
    cifar_rows,
    imagenet_tree,
    jpeg,
    picture,
    python2_batch,
)

__all__ = ["celeba_folder", "church_lmdb", "cifar_archive", "cifar_rows", "imagenet_tree", "jpeg", "picture", "python2_batch"]


def silent(split, done, total):
    pass


def run(name, source, root, **options):
    return prepare(name, source, root, progress=silent, **{"official": False, **options})


def stored(root, name, split):
    labels = root / name / f"{split}_labels.npy"
    return np.load(root / name / f"{split}.npy"), np.load(labels) if labels.exists() else None


def box_half(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) to (H/2, W/2, 3): means of two columns, then of two rows, rounded each time."""
    rows = np.floor(pixels.astype(float).reshape(len(pixels), -1, 2, 3).mean(2) + 0.5)
    return np.floor(rows.reshape(len(pixels) // 2, 2, -1, 3).mean(1) + 0.5)
