"""An MLP for points of a few dimensions: residual layers, each conditioned on the noise level."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.config.parts import Network
from harness.core.networks.layers import ZERO_GAIN, Linear, add_labels


class NoiseFeatures(nn.Module):
    """c_noise = ln(sigma)/4 (N,) -> (N, 9): c itself, and sin and cos of pi c 2^k / 2 for k = 0 .. 3.

    Over the EDM range c spans 2.65, two thirds of a period of the slowest wave and about five periods of the fastest one. More waves did
    not improve the fit of the exact denoiser of eight Gaussians; without waves the error was twice as large.
    """

    outputs = 9
    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", 0.5 * math.pi * 2.0 ** torch.arange(4), persistent=False)

    def forward(self, c: Tensor) -> Tensor:
        angles = c[:, None] * self.frequencies
        return torch.cat([c[:, None], angles.sin(), angles.cos()], dim=1)


class MLP(nn.Module):
    """F(x, c_noise, labels) for points x (N, dim): `depth` residual SiLU layers of `width`, each adds the embedding of the noise level.

    The weights are uninitialised until `harness.core.networks.initialise` or a state dict fills them.
    """

    def __init__(self, network: Network, *, dim: int, label_dim: int = 0) -> None:
        super().__init__()
        width, depth = network.width, network.depth
        self.dropout = network.dropout[0]
        self.noise = NoiseFeatures()
        self.map_noise = Linear(self.noise.outputs, width)
        self.map_label = Linear(label_dim, width) if label_dim else None
        self.inputs = Linear(dim, width)
        self.affine = nn.ModuleList(Linear(width, width) for _ in range(depth))
        self.hidden = nn.ModuleList(Linear(width, width) for _ in range(depth))
        self.outputs = Linear(width, dim, gain=ZERO_GAIN)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """x (N, dim), c_noise (N,), labels (N, label_dim) one-hot, None or zero rows for no class -> (N, dim)."""
        emb = F.silu(add_labels(self.map_noise(self.noise(c_noise)), labels, self.map_label))
        h = self.inputs(x)
        for affine, hidden in zip(self.affine, self.hidden, strict=True):
            y = F.silu(h + affine(emb))
            if self.training and self.dropout > 0:
                y = F.dropout(y, self.dropout)
            h = h + hidden(y)
        return self.outputs(F.silu(h))
