"""A linear network for points, one coefficient per noise level: the model of the closed forms in harness.theory.joint_learning."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LevelScaling(nn.Module):
    """F(x, c_noise) = w_i x with i the grid level nearest to c_noise = ln(sigma)/4, so that f(x, sigma_i) = a_i x with any a_i.

    levels: the grid, ascending and positive, (N,). The coefficients start at zero. w_0 has no effect, because c_out(sigma_0) = 0 in (3).
    """

    boundaries: Tensor

    def __init__(self, levels: Tensor) -> None:
        super().__init__()
        c_noise = levels.log() / 4
        self.register_buffer("boundaries", ((c_noise[1:] + c_noise[:-1]) / 2).float(), persistent=False)
        self.scale = nn.Parameter(torch.zeros(len(levels)))

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """x (n, d), c_noise (n,) -> like x; labels are ignored."""
        return self.scale[torch.bucketize(c_noise, self.boundaries.to(c_noise))][:, None] * x
