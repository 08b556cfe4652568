"""A learned coupling of noise to data: the encoder of variational consistency training (Silvestri et al. 2025, arXiv 2502.18197)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LOG_SD = 5.0
"""Largest absolute value of the logarithm of a standard deviation."""


class NoiseEncoder(nn.Module):
    """q(z | x) = N(mean(x), diag sd(x)^2), from which a data row draws its noise.

    network: maps rows with twice the channels of the data (points: twice the dimension), a noise level (always 0) and labels to the same
    shape. Its input is x and zeros, its output the mean and the logarithm of sd, times a learned factor. gain: this factor at first; 0 for
    networks whose own output does not start at 0, so that the first pairs are those of IC: mean 0, sd 1.
    """

    def __init__(self, network: nn.Module, gain: float) -> None:
        super().__init__()
        self.network = network
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x: Tensor, z: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise mean + sd z for standard normal z, like x; and the divergence KL(q(. | x) || N(0, I)) of each row, in nats, (n,)."""
        level = x.new_zeros(len(x))
        mean, log_sd = (self.gain * self.network(torch.cat([x, torch.zeros_like(x)], 1), level, labels)).to(x).chunk(2, 1)
        log_sd = log_sd.clamp(-LOG_SD, LOG_SD)
        divergence = (mean**2 + (2 * log_sd).exp() - 1) / 2 - log_sd
        return mean + log_sd.exp() * z, divergence.flatten(1).sum(1)
