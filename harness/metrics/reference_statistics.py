"""What samples are compared with: features and statistics of the real training set, computed once and kept on disk."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from harness.config.identity import short_hash
from harness.config.parts import Choice
from harness.core.randomness import generator
from harness.data.catalogue import NEIGHBOURS, info
from harness.data.datasets import Dataset, load
from harness.locations import open_regular
from harness.metrics.coverage import radii
from harness.metrics.extractors import extractor
from harness.metrics.features import Extractor, Features, quantise
from harness.metrics.points import PointModes, point_modes
from harness.metrics.quality import moments, root
from harness.store.files import atomic_file, disk_errors

FORMAT = 1
MAX_ROWS = 50_000
ARRAYS = ("features", "probs", "mu", "cov", "root", "near_rows", "near_radii")


@dataclass(frozen=True)
class MetricOptions:
    """The options of the metrics.

    sample_range and quantisation: the protocol's choices (paper: clip to [-1, 1], round; released: min-max of every generated batch,
    round down, also for real images). batch: samples generated at once. near_rows: the largest number of rows of each side used
    for precision and recall.
    """

    sample_range: Choice = "paper"
    quantisation: Choice = "paper"
    batch: int = 500
    kid_subsets: int = 100
    kid_size: int = 1000
    neighbours: int = NEIGHBOURS
    near_rows: int = 10_000

    def generated(self, x: torch.Tensor) -> torch.Tensor:
        """Generated samples (n, C, H, W), float, to uint8."""
        return quantise(x.float(), self.sample_range, self.quantisation)

    def real(self, data: Dataset) -> torch.Tensor | Iterator[torch.Tensor]:
        """The real images, uint8, after the same quantisation."""
        if self.quantisation == "paper":
            return data.rows
        return (quantise(data.batch(rows), quantisation=self.quantisation) for rows in torch.arange(len(data)).split(self.batch))


@dataclass(frozen=True, eq=False)
class ReferenceStatistics:
    """Real images through an extractor. features (n, d) float32 and statistics on the extractor's device; probs (n, k) float32 NumPy.

    near_rows: the rows that precision and recall use, near_radii their k-th-neighbour distances. key: all that the values depend on.
    """

    data: Dataset
    extractor: Extractor
    options: MetricOptions
    key: dict[str, object]
    features: torch.Tensor
    probs: np.ndarray
    mu: torch.Tensor
    cov: torch.Tensor
    root: torch.Tensor
    near_rows: torch.Tensor
    near_radii: torch.Tensor


@dataclass(frozen=True, eq=False)
class ReferencePoints:
    """A toy set; `modes` where it is a mixture of Gaussians."""

    data: Dataset
    modes: PointModes | None


Reference = ReferenceStatistics | ReferencePoints


def training_set(name: str, device: torch.device | str = "cpu") -> Dataset:
    """The real data to compare with: the training split, of a larger one a random draw of 50,000 rows with each class in its share."""
    return load(name, "train", at_most=MAX_ROWS, device=device)


def build_reference(
    data: Dataset, extractor: Extractor | None = None, options: MetricOptions = MetricOptions(), cache: Path | None = None
) -> Reference:
    """The reference of a real data set; images need an extractor, toy points none.

    cache: a folder that keeps it, keyed by data set, extractor and options. Several processes may call at once: each file is complete
    or absent, and a damaged one is computed again.
    """
    if not data.is_images:
        labels = data.labels if info(data.name).base.endswith("gaussians") else None
        return ReferencePoints(data, None if labels is None else point_modes(data.rows, labels, data.rare_class))
    if extractor is None:
        raise ValueError(f"images ({data.name}) need an extractor")
    key: dict[str, object] = {
        "format": FORMAT,
        "dataset": data.name,
        "split": data.split,
        "sha256": data.sha256,
        "rows": len(data),
        "features": extractor.protocol(),
        "quantisation": options.quantisation,
    }
    path = cache and Path(cache) / f"reference-{data.name}-{short_hash([key, options.neighbours, options.near_rows])}.npz"
    arrays = _read(path, len(data)) if path else None
    if arrays is None:
        arrays = _compute(extractor.extract(options.real(data)), options, extractor.device)
        if path:
            with disk_errors(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy's stubs check all keywords against allow_pickle
    tensors = {name: torch.from_numpy(array).to(extractor.device) for name, array in arrays.items() if name != "probs"}
    return ReferenceStatistics(data, extractor, options, key, probs=arrays["probs"], **tensors)


def reference_of(name: str, options: MetricOptions, cache: Path, device: torch.device) -> Reference:
    """The reference of the data set of that name: its training set, through the extractor of the data set if it holds images."""
    data = training_set(name, device)
    return build_reference(data, extractor(name, device) if data.is_images else None, options, cache)


def _compute(measured: Features, options: MetricOptions, device: torch.device) -> dict[str, np.ndarray]:
    features = torch.from_numpy(measured.features).to(device)
    mu, cov = moments(features)
    rows = torch.randperm(len(features), generator=generator(0, "measure"))[: options.near_rows].sort().values
    near = radii(features[rows.to(device)], options.neighbours)
    tensors = {"features": features, "mu": mu, "cov": cov, "root": root(cov), "near_rows": rows, "near_radii": near}
    return {"probs": measured.probs} | {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def _read(path: Path, rows: int) -> dict[str, np.ndarray] | None:
    """The arrays of a cache file, or None when it is absent or damaged."""
    try:
        with open_regular(path) as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAYS}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None  # absent, or damaged by a broken disk or copy: computed again
    return arrays if len(arrays["features"]) == len(arrays["probs"]) == rows else None
