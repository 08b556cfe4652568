"""Which network measures which data set."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from harness.errors import unknown
from harness.metrics.classifier import RECIPES, load
from harness.metrics.features import Extractor
from harness.metrics.inception import InceptionExtractor

Mode = Literal["classifier", "legacy_tensorflow", "clean"]
EMBEDDED = tuple(RECIPES)
"""Data sets with a classifier in the package."""


def extractor(dataset: str, device: torch.device | str = "cpu", mode: Mode | None = None) -> Extractor:
    """The extractor of a data set: the classifier in the package where it has one, else Inception in mode legacy_tensorflow.

    Raises HarnessError for an unknown mode, a classifier that does not exist, or missing or damaged weights.
    """
    mode = mode or ("classifier" if dataset in EMBEDDED else "legacy_tensorflow")
    if mode not in get_args(Mode):
        raise unknown("feature mode", mode, get_args(Mode))
    if mode == "classifier":
        return load(dataset, device)
    return InceptionExtractor(mode, device)
