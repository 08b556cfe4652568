"""Which network measures which data set."""

from __future__ import annotations

import torch

from harness.data.catalogue import info
from harness.metrics.classifier import RECIPES, load
from harness.metrics.features import Extractor
from harness.metrics.inception import InceptionExtractor


def extractor(dataset: str, device: torch.device | str = "cpu") -> Extractor:
    """The extractor of a data set: the classifier in the package where it has one, else Inception.

    Raises HarnessError for missing or damaged weights.
    """
    base = info(dataset).base
    return load(base, device) if base in RECIPES else InceptionExtractor(device=device)
