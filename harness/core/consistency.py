"""Preconditioning (3), distances and the training losses. f(x, sigma) is a consistency function throughout.

Shapes: images (n, C, H, W) or points (n, d); sigma (n,). Losses are means over rows of sums over pixels and channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Function = Callable[..., Tensor]


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """(n,) values shaped to multiply the rows of `like`, in its dtype and on its device."""
    return values.to(like).reshape(-1, *([1] * (like.dim() - 1)))


class Preconditioned(nn.Module):
    """f(x, s) = c_skip(s) x + c_out(s) F(c_in(s) x, ln(s)/4), equation (3).

    c_skip = sd^2 / (sd^2 + (s-s0)^2), c_out = sd (s-s0) / sqrt(sd^2 + s^2), c_in = 1 / sqrt(sd^2 + s^2): f(x, s0) = x exactly.
    s0 = 0 is EDM's denoiser, from which ECT starts. Parameters are named `model.<EDM name>`. `labels`: (n, classes) one-hot rows or
    None. With bf16, only F runs in bf16. encoder: that of a learned coupling, which is trained and averaged along; forward ignores it.
    """

    def __init__(
        self, model: nn.Module, sigma_data: float = 0.5, sigma_0: float = 0.002, bf16: bool = False, encoder: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.model, self.sigma_data, self.sigma_0, self.bf16 = model, sigma_data, sigma_0, bf16

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        sigma = sigma.to(x)
        s, s0, sd = per_row(sigma, x), self.sigma_0, self.sigma_data
        scale = (sd**2 + s**2).sqrt()
        c_skip = 1 / (1 + ((s - s0) / sd) ** 2)  # equal to (3), and exactly 1 at s0 for every sd
        c_out = sd * (s - s0) / scale
        # ln(0) is undefined; in ECT's rows with r = 0, c_out is 0, so f = x for any F
        c_noise = sigma.clamp(min=1e-8).log() / 4
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            out = self.model(x / scale, c_noise, labels)
        return c_skip * x + c_out * out.to(x)


def squared_norm(x: Tensor) -> Tensor:
    """|x|^2 of each row, summed over ALL pixels and channels; (n,)."""
    return x.flatten(1).square().sum(1)


def pseudo_huber(x: Tensor, y: Tensor, c: float) -> Tensor:
    """sqrt(|x - y|^2 + c^2) - c of each row (not element-wise); (n,). c = 0 is the plain norm, whose gradient at x = y is 0."""
    if c == 0:
        return (x - y).flatten(1).norm(dim=1)
    return (squared_norm(x - y) + c**2).sqrt() - c


def distance(kind: str, x: Tensor, y: Tensor, c: float) -> Tensor:
    """D(x, y) of each row: "pseudo-huber", "squared" |x-y|^2 or "norm" |x-y|; (n,)."""
    if kind == "squared":
        return squared_norm(x - y)
    return pseudo_huber(x, y, c if kind == "pseudo-huber" else 0.0)


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seeds only the global generator of this device, from which dropout draws; torch.manual_seed would query the GPUs at every call."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def pair_losses(
    f: Function, x: Tensor, z: Tensor, low: Tensor, high: Tensor, weight: Tensor, dist: Function, dropout: int, labels: Tensor | None = None
) -> Tensor:
    """weight * D(sg f(x + low z, low), f(x + high z, high)) of each row, (6), (15) and (21); (n,).

    Student and teacher are the same online weights and see the SAME dropout mask, drawn from the seed `dropout`.
    """
    seed_dropout(dropout, x.device)
    student = f(x + per_row(high, x) * z, high, labels)
    with torch.no_grad():
        seed_dropout(dropout, x.device)
        teacher = f(x + per_row(low, x) * z, low, labels)
    return weight.to(student) * dist(student, teacher)


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """EDM's weight (sigma^2 + sd^2) / (sigma sd)^2 of a loss at the noise level sigma (arXiv 2206.00364); like sigma."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def denoising_losses(
    f: Function, x: Tensor, z: Tensor, sigma: Tensor, sigma_data: float, dropout: int, labels: Tensor | None = None
) -> Tensor:
    """EDM's weight times |D(x + sigma z, sigma) - x|^2 of each row; (n,)."""
    seed_dropout(dropout, x.device)
    denoised = f(x + per_row(sigma, x) * z, sigma, labels)
    return edm_weight(sigma, sigma_data).to(denoised) * squared_norm(denoised - x)
