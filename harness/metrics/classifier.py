"""The embedded classifiers that measure digits and Fashion-MNIST, where Inception features are of little use.

A small CNN gives a bounded feature vector and class probabilities. The features must also encode the image (a linear map has to
reconstruct it from them), so that the Frechet distance depends on quality within a class and not only on the class; and training includes
pure noise with the uniform distribution as its label, so that noise is not assigned to a class. The weights are part of the package, so
that every machine measures with the same network; `python -m harness.metrics.classifier NAME` trains them again, deterministically.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from harness.core.randomness import generator
from harness.data.datasets import load as load_dataset
from harness.errors import DamagedFile, unknown
from harness.metrics.features import Features, extract
from harness.metrics.quality import inception_score
from harness.store.files import disk_errors, read_json, write_atomic, write_json

SHIPPED = Path(__file__).parent / "weights"
BATCH = 500
LOGIT_SCALE = 8.0  # features are bounded by 1, so that without it real images could not be classified with certainty


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights, given the data.

    size: height and width in pixels. widths: channels of each stage; the resolution halves after each. dim: number of features. shift:
    a third of the rows is shifted at random by up to this many pixels. noise_batch: rows of pure noise per step.
    """

    size: int
    widths: tuple[int, ...]
    dim: int
    steps: int
    shift: int
    batch: int = 128
    noise_batch: int = 32
    lr: float = 3e-3
    weight_decay: float = 0.02
    classes: int = 10
    noise_weight: float = 0.3
    rebuild_weight: float = 1.0
    seed: int = 0
    channels: int = 1

    @property
    def side(self) -> int:
        """Pixels per side after the last stage."""
        return -(-self.size >> len(self.widths))


RECIPES = {
    "digits": Recipe(size=8, widths=(24, 48), dim=32, steps=1500, shift=1),
    "fashion-mnist": Recipe(size=32, widths=(16, 32, 36), dim=48, steps=3000, shift=2),
}


class Classifier(nn.Module):
    """Images (n, channels, size, size) in [-1, 1] to features (n, dim) in (-1, 1) and logits (n, classes)."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        stages, channels = [], recipe.channels
        for width in recipe.widths:
            stages += [nn.Conv2d(channels, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, stride=2, padding=1), nn.SiLU()]
            channels = width
        self.body = nn.Sequential(*stages, nn.Flatten())
        self.features = nn.Linear(channels * recipe.side**2, recipe.dim)
        self.head = nn.Linear(recipe.dim, recipe.classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.tanh(self.features(self.body(x)))
        return features, LOGIT_SCALE * self.head(features)


class ClassifierExtractor:
    """The classifier as an extractor; sha256 (of the weights file) and name go into the protocol."""

    def __init__(self, network: Classifier, sha256: str, device: torch.device | str = "cpu", name: str = "embedded-classifier") -> None:
        self.network, self.sha256, self.device, self.name = network.to(device).eval(), sha256, torch.device(device), name

    def protocol(self) -> dict[str, object]:
        dim = self.network.recipe.dim
        return {"network": self.name, "sha256": self.sha256, "mode": "classifier", "batch": BATCH, "dim": dim}

    def extract(self, images: torch.Tensor | Iterable[torch.Tensor]) -> Features:
        return extract(images, BATCH, self._measure)

    def _measure(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features, logits = self.network(to_float(batch.to(self.device)))
        return features, logits.softmax(1)


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 levels 0..255 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def train(recipe: Recipe, images: torch.Tensor, labels: torch.Tensor) -> Classifier:
    """A classifier of uint8 images (n, channels, size, size) with labels (n,), int64. A pure function of its arguments on one machine: one
    thread, addressed randomness, AdamW with a one-cycle rate."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        draw = generator(recipe.seed, "measure")
        network = Classifier(recipe)
        rebuild = nn.Linear(recipe.dim, recipe.channels * recipe.size**2)
        parameters = [*network.parameters(), *rebuild.parameters()]
        with torch.no_grad():
            for parameter in parameters:
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
                parameter.uniform_(-1, 1, generator=draw).mul_(fan_in**-0.5 if parameter.ndim > 1 else 0)
        optimizer = torch.optim.AdamW(parameters, weight_decay=recipe.weight_decay)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=recipe.steps)
        for _ in range(recipe.steps):
            rows = torch.randint(len(images), (recipe.batch,), generator=draw)
            x = _augment(to_float(images[rows]), recipe.shift, draw)
            features, logits = network(torch.cat([x, _noise(recipe, draw)]))
            loss = F.cross_entropy(logits[: len(x)], labels[rows])
            loss = loss + recipe.rebuild_weight * F.mse_loss(rebuild(features[: len(x)]), x.flatten(1))
            loss = loss - recipe.noise_weight * logits[len(x) :].log_softmax(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    finally:
        torch.set_num_threads(threads)
    return network.eval()


def _augment(x: torch.Tensor, shift: int, draw: torch.Generator) -> torch.Tensor:
    """Shifts a third of the rows, then adds a little noise of random strength (at most 0.1) to all."""
    n, _, height, width = x.shape
    shifted = torch.rand(n, 1, generator=draw) < 1 / 3
    offset = torch.where(shifted, torch.randint(0, 2 * shift + 1, (n, 2), generator=draw), shift)
    rows, columns = (torch.arange(size) + offset[:, axis, None] for axis, size in enumerate((height, width)))
    padded = F.pad(x, (shift,) * 4, value=-1.0)
    x = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1).contiguous()
    strength = 0.1 * torch.rand(n, 1, 1, 1, generator=draw)
    return (x + strength * torch.randn(x.shape, generator=draw)).clamp(-1, 1)


def _noise(recipe: Recipe, draw: torch.Generator) -> torch.Tensor:
    """Rows of pure noise: Gaussian, uniform, or blurred Gaussian, clipped to [-1, 1]."""
    shape = (recipe.noise_batch, recipe.channels, recipe.size, recipe.size)
    gaussian, uniform = torch.randn(shape, generator=draw), 2 * torch.rand(shape, generator=draw) - 1
    blurred = 3 * F.avg_pool2d(gaussian, 3, 1, 1)
    kind = torch.randint(0, 3, (recipe.noise_batch, 1, 1, 1), generator=draw)
    return torch.where(kind == 0, gaussian, torch.where(kind == 1, uniform, blurred)).clamp(-1, 1)


def load(name: str, device: torch.device | str = "cpu") -> ClassifierExtractor:
    """The extractor of a data set, from the weights in the package.

    Raises HarnessError for a data set without a classifier and for a missing or damaged weights file.
    """
    if name not in RECIPES:
        raise unknown("classifier", name, RECIPES)
    path, expected = SHIPPED / f"{name}.pt", read_json(SHIPPED / f"{name}.json").get("sha256")
    with disk_errors(path, "read the weights of the metric"):
        content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != expected:
        advice = "install the package again"
        raise DamagedFile("the weights of the metric are damaged", where=path, found=sha256, expected=expected, nearest=advice)
    network = Classifier(RECIPES[name])
    network.load_state_dict(torch.load(io.BytesIO(content), weights_only=True, map_location="cpu"))
    return ClassifierExtractor(network, sha256, device)


def train_and_save(name: str) -> dict[str, object]:
    """Trains on the train split and writes NAME.pt and its manifest NAME.json into the package; returns the manifest."""
    recipe, data = RECIPES[name], load_dataset(name)
    if data.labels is None:
        raise ValueError(f"{name} has no labels")
    network = train(recipe, data.rows, data.labels)
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    manifest: dict[str, object] = {"dataset": name, "sha256": sha256, "torch": torch.__version__, "recipe": asdict(recipe)}
    for split in (data, load_dataset(name, "heldout")):
        probs = torch.from_numpy(ClassifierExtractor(network, sha256).extract(split.rows).probs)
        manifest[split.split] = {
            "sha256": split.sha256,
            "n": len(probs),
            "accuracy": round(torch.eq(probs.argmax(1), torch.as_tensor(split.labels)).double().mean().item(), 5),
            "inception_score": round(inception_score(probs, splits=1), 4),
        }
    write_atomic(SHIPPED / f"{name}.pt", buffer.getvalue())
    write_json(SHIPPED / f"{name}.json", manifest)
    return manifest


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in RECIPES:
        sys.exit(f"usage: python -m harness.metrics.classifier {{{','.join(RECIPES)}}}   (writes {SHIPPED})")
    print(json.dumps(train_and_save(sys.argv[1]), indent=1))
