"""Which network measures which data set."""

from __future__ import annotations

import torch

from harness.data.catalogue import info
from harness.metrics import set_classifier
from harness.metrics.classifier import RECIPES, load
from harness.metrics.features import Extractor
from harness.metrics.inception import InceptionExtractor
from harness.metrics.random_network import RandomExtractor


def extractor(dataset: str, device: torch.device | str = "cpu") -> Extractor:
    """The extractor of a data set: the classifier in the package where it has one, else Inception. Of a set of the user's own, the one that
    its manifest names, so that its values are never those of several networks.

    Raises HarnessError for missing or damaged weights.
    """
    entry = info(dataset)
    if entry.base in RECIPES:
        return load(entry.base, device)
    if entry.features == "classifier":
        return set_classifier.load(dataset, device)
    if entry.features == "random":
        return RandomExtractor(entry.shape[0], entry.shape[1], device)
    return InceptionExtractor(device=device)
