"""A fixed network with random weights, which measures images that have no labels, if Inception's weights are not installed either.

Features of random networks distinguish good from bad samples of one data set, by colour, texture and layout, but they know no objects
(Naeem et al. 2020, arXiv 2002.09797, who use a random VGG16 with 64 features where a trained network does not fit the images). The weights
follow from a fixed seed and the shape of the images, so they are the same on every machine; their SHA-256 is part of the protocol.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from harness.core.randomness import generator
from harness.metrics.classifier import to_float
from harness.metrics.features import Features, extract

BATCH = 500
DIM = 64
WIDTHS = (32, 64)
"""Channels of the first stage, and of all others."""
SIDE = 4
"""Stages are added, each of half the resolution, until a side has at most so many pixels."""
SEED = 20250709
NETWORK = "random-network"


class RandomNetwork(nn.Module):
    """Images (n, C, S, S) in [-1, 1] to features (n, DIM): 3x3 convolutions, ReLU and 2x2 means, then a linear map of what is left."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        stages: list[nn.Conv2d] = []
        while not stages or size > SIDE:
            width = WIDTHS[min(len(stages), 1)]
            stages.append(nn.Conv2d(channels, width, 3, padding=1))
            channels, size = width, -(-size // 2)
        self.stages = nn.ModuleList(stages)
        self.features = nn.Linear(channels * size**2, DIM)
        draw = generator(SEED, "measure")
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                fan_in = parameter[0].numel() if name.endswith("weight") else 24
                parameter.uniform_(-1, 1, generator=draw).mul_((6 / fan_in) ** 0.5)  # keeps the variance from stage to stage

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage in self.stages:
            x = F.avg_pool2d(F.relu(stage(x)), 2, ceil_mode=True)
        features: torch.Tensor = self.features(x.flatten(1))
        return features


class RandomExtractor:
    """The random network as an extractor; sha256 (of its weights) goes into the protocol. It knows no classes: probs are (n, 1)."""

    def __init__(self, channels: int, size: int, device: torch.device | str = "cpu") -> None:
        network = RandomNetwork(channels, size).eval().requires_grad_(False)
        weights = b"".join(parameter.numpy().tobytes() for parameter in network.state_dict().values())
        self.sha256, self.network, self.device = hashlib.sha256(weights).hexdigest(), network.to(device), torch.device(device)

    def protocol(self) -> dict[str, object]:
        return {"network": NETWORK, "sha256": self.sha256, "mode": "random", "batch": BATCH, "dim": DIM}

    def extract(self, images: torch.Tensor | Iterable[torch.Tensor]) -> Features:
        return extract(images, BATCH, self._measure)

    def _measure(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.network(to_float(batch.to(self.device)))
        return features, features.new_ones(len(features), 1)
