"""The classifier that measures a labelled set of a user's own: trained once on its labels, kept beside its arrays.

Its recipe follows from the images; architecture and training are those of harness.metrics.classifier.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import asdict
from pathlib import Path

import torch

from harness.config.custom_data import CLASSIFIER, custom_set
from harness.config.parts import CustomData
from harness.data.catalogue import info, of_custom
from harness.data.datasets import load as load_dataset
from harness.errors import DamagedFile, HarnessError, MissingFile
from harness.locations import data_root, read_regular
from harness.metrics.classifier import Classifier, ClassifierExtractor, Recipe, train
from harness.store.files import read_json, write_atomic, write_json

NETWORK = "set-classifier"
STEPS = 2000
WIDTHS = (24, 48)
"""Channels of the first stage, and of all others."""
SIDE = 3
"""Stages are added, each of half the resolution, until a side has at most so many pixels."""
_MOST_BYTES = 64 << 20


def recipe_of(custom: CustomData) -> Recipe:
    """What determines the weights, given the data."""
    channels, size, _ = custom.shape
    stages, side = 0, size
    while side > SIDE:
        stages, side = stages + 1, -(-side // 2)
    widths = tuple(WIDTHS[min(stage, 1)] for stage in range(stages))
    return Recipe(size, widths, dim=48, steps=STEPS, shift=1 if size < 16 else 2, classes=custom.classes, channels=channels)


def fit(name: str, root: Path | None = None) -> float | None:
    """Trains and stores the classifier of a set, unless a valid one is there. Returns the share of held-out images that it classifies as
    labelled, None where none are held out. Raises HarnessError for a set without classes."""
    custom = _labelled(name, root)
    try:
        return _read(name, custom, root)[2]
    except HarnessError:
        pass  # there is none, or a damaged one
    recipe, data = recipe_of(custom), load_dataset(name, root=root)
    assert data.labels is not None, "a labelled set"
    network = train(recipe, data.rows, data.labels)
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    accuracy = None
    if custom.heldout:
        held = load_dataset(name, "heldout", root=root)
        probs = torch.from_numpy(ClassifierExtractor(network, sha256).extract(held.rows).probs)
        accuracy = torch.eq(probs.argmax(1), torch.as_tensor(held.labels)).double().mean().item()
    weights, facts = _files(name, root)
    write_atomic(weights, buffer.getvalue())
    entry = {"sha256": sha256, "data": custom.sha256, "torch": torch.__version__, "recipe": asdict(recipe), "heldout_accuracy": accuracy}
    write_json(facts, entry)
    return accuracy


def load(name: str, device: torch.device | str = "cpu", root: Path | None = None) -> ClassifierExtractor:
    """The extractor of a set. Raises HarnessError for one without a classifier, and for weights that are damaged or of other images."""
    custom = _labelled(name, root)
    content, sha256, _ = _read(name, custom, root)
    network = Classifier(recipe_of(custom))
    try:
        network.load_state_dict(torch.load(io.BytesIO(content), weights_only=True, map_location="cpu"))
    except RuntimeError as error:
        raise _damaged(name, root, " ".join(str(error).split())[:200]) from None
    return ClassifierExtractor(network, sha256, device, NETWORK)


def _labelled(name: str, root: Path | None) -> CustomData:
    custom = custom_set(name, root) if root else info(name).custom
    if custom is None or not custom.classes:
        what = f"{name} has no classes, so no classifier measures it"
        raise HarnessError(what, where="--features", found="classifier", expected="random or inception", nearest="random")
    return custom


def _files(name: str, root: Path | None) -> tuple[Path, Path]:
    """The weights and what is known about them."""
    weights = (root or data_root()) / name / CLASSIFIER
    return weights, weights.with_suffix(".json")


def _read(name: str, custom: CustomData, root: Path | None) -> tuple[bytes, str, float | None]:
    """The weights, their SHA-256 and the stored accuracy."""
    weights, facts = _files(name, root)
    if not weights.is_file() or not facts.is_file():
        raise MissingFile(f"the classifier of {name} is not trained", where=weights, found="no file", nearest=_again(name, custom))
    entry = read_json(facts)
    try:
        content = read_regular(weights, _MOST_BYTES)
    except OSError as error:
        raise _damaged(name, root, error) from None
    sha256 = hashlib.sha256(content).hexdigest()
    if (sha256, custom.sha256) != (entry.get("sha256"), entry.get("data")):
        raise _damaged(name, root, "other weights, or those of other images")
    accuracy = entry.get("heldout_accuracy")
    return content, sha256, accuracy if isinstance(accuracy, float) else None


def _damaged(name: str, root: Path | None, cause: object) -> DamagedFile:
    weights, _ = _files(name, root)
    advice = f"rm {weights}; {_again(name, _labelled(name, root))}"
    return DamagedFile("the weights of the metric are damaged", where=weights, found=cause, nearest=advice)


def _again(name: str, custom: CustomData) -> str:
    return f"{of_custom(name, custom).fix}, the command that prepared it"
