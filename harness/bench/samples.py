"""Evaluation: images sampled and features computed per second, and from both the time of an FID of 50,000 samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.bench.profiles import FP32
from harness.bench.rows import SECONDS, Row, row
from harness.bench.setting import Setting
from harness.bench.shapes import Shape
from harness.bench.trainers import run_of
from harness.bench.turns import timed
from harness.errors import MissingFile
from harness.metrics import features
from harness.metrics.extractors import extractor
from harness.metrics.features import Extractor, Features, quantise
from harness.metrics.quality import frechet, moments, root
from harness.metrics.sampling import Steps, sampler
from harness.theory.rate import seconds_of
from harness.training.model import create

PART = "samples"
SAMPLES = 50_000
"""Samples of the paper's FID."""
BATCH = {"cpu": 8, "cuda": 500}
"""Samples of one call, 500 on a CPU where the network is small."""


class InceptionArchitecture:
    """torchvision's Inception v3 with random weights, for the time that real features take where their weights are not here."""

    def __init__(self, device: torch.device, batch: int) -> None:
        from torchvision.models import inception_v3

        network = inception_v3(weights=None, init_weights=False, aux_logits=True)
        network.fc = nn.Identity()
        self.network, self.device, self.batch = network.to(device).eval(), device, batch

    def protocol(self) -> dict[str, object]:
        return {"network": "inception-v3, random weights"}

    def extract(self, images: Tensor | Iterable[Tensor]) -> Features:
        return features.extract(images, self.batch, self._measure)

    def _measure(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        x = batch.to(self.device).float().div(127.5).sub(1).expand(-1, 3, -1, -1)
        found = self.network(F.interpolate(x, (299, 299), mode="bilinear"))
        return found, found[:, :1000].softmax(1)


def extractor_of(shape: Shape, device: torch.device) -> tuple[Extractor, str]:
    """The extractor that measures this data, and a note where another network of the same size stands in for it."""
    try:
        return extractor(shape.data, device), ""
    except MissingFile:
        note = f"{shape.name}: the Inception weights are not here; features are timed with the same architecture and random weights"
        return InceptionArchitecture(device, 8 if device.type == "cpu" else 100), note


def measure(setting: Setting) -> Iterator[Row | str]:
    """Rows for each shape of images."""
    for shape in setting.detailed:
        if shape.is_images:
            yield from of_shape(setting, shape)


def of_shape(setting: Setting, shape: Shape) -> Iterator[Row | str]:
    """Samples, features and FID of one shape; the FID's time is that of so many samples as fit, in proportion, plus its distance."""
    device, data = setting.device, shape.load(setting.device)
    run = run_of(shape, "GC", device)
    n = 500 if shape.scale == "digits" else BATCH[device.type]
    generators: dict[str, Callable[[int, range], Tensor]] = {}
    for profile in setting.profiles_for(shape)[0]:
        network = create(profile.applied(run), device).ema
        generators[profile.name] = sampler(network, data.shape, Steps(run.noise.sigma_max), device)
    measured, note = extractor_of(shape, device)
    if note:
        yield note
    images = quantise(generators[FP32.name](0, range(n)).float())
    mu, cov = moments(torch.randn(3000, measured.extract(images[:2]).features.shape[1], device=device))
    known_root = root(cov)

    def fid(generate: Callable[[int, range], Tensor], batches: int) -> None:
        samples = (quantise(generate(k, range(n)).float()) for k in range(batches))
        found = torch.from_numpy(measured.extract(samples).features).to(device)
        frechet(mu, cov, *moments(found), root1=known_root)

    calls = {f"samples, {name}": timed(partial(generate, 0, range(n)), device) for name, generate in generators.items()}
    calls["features"] = timed(lambda: measured.extract(images), device)
    calls["frechet"] = timed(lambda: frechet(mu, cov, mu, cov, root1=known_root), device)
    times = setting.turns(calls, warm=True)
    for name in generators:
        yield row(PART, shape.name, f"samples, {name}", "images/s", [n / seconds for seconds in times[f"samples, {name}"]])
    yield row(PART, shape.name, "features", "images/s", [n / seconds for seconds in times["features"]])
    columns = zip(*(times[name] for name in (f"samples, {FP32.name}", "features", "frechet")), strict=True)
    whole = [SAMPLES / n * (sampling + featuring) + distance for sampling, featuring, distance in columns]
    bar = "under 60" if (shape.name, device.type) == ("cifar10", "cuda") else ""
    yield row(PART, shape.name, f"FID of {SAMPLES:,}, in proportion from {n}", SECONDS, whole, bar)
    if min(whole) <= 10 * setting.seconds and not setting.quick:
        name = min(generators, key=lambda name: min(times[f"samples, {name}"]))
        seconds = seconds_of(lambda: fid(generators[name], SAMPLES // n), device)
        yield row(PART, shape.name, f"FID of {SAMPLES:,}, start to end, {name}", SECONDS, [seconds], bar)
