"""DDPM++ in its most direct form, as the yardstick of the harness's own network; see `harness.bench.plain`.

Written from the description in harness.core.networks, whose parameter names it has, so that both compute with the same weights. Every
resampling is a convolution with the filter, every layer a separate operation. Only what the presets use: unconditional, filter (1, 1).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.config.parts import Network


class PlainConv(nn.Module):
    """A same-size convolution; "up" and "down" convolve each channel with the resampling filter first."""

    def __init__(self, inputs: int, outputs: int, kernel: int, resample: str = "") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.resample = resample
        if resample:
            self.register_buffer("resample_filter", torch.full((1, 1, 2, 2), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        if self.resample:
            each = self.get_buffer("resample_filter").repeat(channels, 1, 1, 1)
            up = self.resample == "up"
            x = F.conv_transpose2d(x, 4 * each, stride=2, groups=channels) if up else F.conv2d(x, each, stride=2, groups=channels)
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-6)


class PlainBlock(nn.Module):
    """GroupNorm, SiLU, convolution, add the embedding; GroupNorm, SiLU, dropout, convolution; skip; then self-attention."""

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float, resample: str = "", attention: bool = False) -> None:
        super().__init__()
        self.norm0, self.conv0 = group_norm(inputs), PlainConv(inputs, outputs, 3, resample)
        self.affine = nn.Linear(embedding, outputs)
        self.norm1, self.drop, self.conv1 = group_norm(outputs), nn.Dropout(dropout), PlainConv(outputs, outputs, 3)
        self.skip = PlainConv(inputs, outputs, 1, resample) if inputs != outputs or resample else None
        self.attention = attention
        if attention:
            self.norm2, self.qkv, self.proj = group_norm(outputs), PlainConv(outputs, 3 * outputs, 1), PlainConv(outputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        h = h + self.affine(embedding)[:, :, None, None]
        h = self.conv1(self.drop(F.silu(self.norm1(h))))
        x = (h + (x if self.skip is None else self.skip(x))) * math.sqrt(0.5)
        if not self.attention:
            return x
        n, c, height, width = x.shape
        q, k, v = self.qkv(self.norm2(x)).reshape(n, c, 3, height * width).unbind(2)
        weights = (q.transpose(1, 2) @ k / math.sqrt(c)).softmax(dim=2)
        attended = (v @ weights.transpose(1, 2)).reshape(n, c, height, width)
        return (x + self.proj(attended)) * math.sqrt(0.5)


class PlainUNet(nn.Module):
    """F(x, c_noise) for images (n, C, H, H). Weights are those of a state dict of harness.core.networks.songunet.SongUNet."""

    def __init__(self, network: Network, channels: int, size: int) -> None:
        super().__init__()
        base, levels, wide = network.base_channels, len(network.channel_mult), 4 * network.base_channels
        self.base = base
        self.map_layer0, self.map_layer1 = nn.Linear(base, wide), nn.Linear(wide, wide)
        widths = [base * mult for mult in network.channel_mult]
        self.enc = nn.ModuleDict({f"{size}x{size}_conv": PlainConv(channels, base, 3)})
        now, kept = base, [base]
        for level in range(levels):
            at, drop = f"{size >> level}x{size >> level}", network.dropout[level]
            if level:
                self.enc[f"{at}_down"] = PlainBlock(now, now, wide, drop, "down")
                kept.append(now)
            for i in range(network.num_blocks[level]):
                self.enc[f"{at}_block{i}"] = PlainBlock(now, widths[level], wide, drop, attention=size >> level in network.attention)
                now = widths[level]
                kept.append(now)
        self.dec = nn.ModuleDict()
        for level in reversed(range(levels)):
            at, drop, last = f"{size >> level}x{size >> level}", network.dropout[level], network.num_blocks[level]
            if level == levels - 1:
                self.dec[f"{at}_in0"] = PlainBlock(now, now, wide, drop, attention=True)
                self.dec[f"{at}_in1"] = PlainBlock(now, now, wide, drop)
            else:
                self.dec[f"{at}_up"] = PlainBlock(now, now, wide, drop, "up")
            for i in range(last + 1):
                attention = i == last and size >> level in network.attention
                self.dec[f"{at}_block{i}"] = PlainBlock(now + kept.pop(), widths[level], wide, drop, attention=attention)
                now = widths[level]
        self.dec[f"{size}x{size}_aux_norm"] = group_norm(now)
        self.dec[f"{size}x{size}_aux_conv"] = PlainConv(now, channels, 3)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        half = self.base // 2
        frequencies = 10000.0 ** -(torch.arange(half, device=x.device) / (half - 1))
        angles = c_noise[:, None] * frequencies
        embedding = torch.cat([angles.sin(), angles.cos()], dim=1)
        embedding = F.silu(self.map_layer1(F.silu(self.map_layer0(embedding))))
        kept = []
        for layer in self.enc.values():
            x = layer(x, embedding) if isinstance(layer, PlainBlock) else layer(x)
            kept.append(x)
        for name, layer in self.dec.items():
            if "_block" in name:
                x = torch.cat([x, kept.pop()], dim=1)
            x = layer(x, embedding) if isinstance(layer, PlainBlock) else layer(F.silu(x) if name.endswith("_conv") else x)
        return x
