"""The layers of the EDM family: convolution with resampling, embeddings, and the residual block.

Parameter and buffer names and shapes are those of EDM's public checkpoints (Karras et al. 2022, arXiv 2206.00364, DDPM++ and NCSN++ of
Song et al. 2021, arXiv 2011.13456). Every layer is differentiable twice and in forward mode.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.config.network_rules import normalisation_groups

SKIP_SCALE = math.sqrt(0.5)
ZERO_GAIN = 1e-5
BOX = (1, 1)


class GroupNorm(nn.GroupNorm):
    """Group normalisation that computes in at least float32, and returns the dtype of its input.

    On CPUs torch's kernel for bfloat16 with channels last takes 2 to 8 times as long as two conversions and the float32 kernel together.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype not in (torch.bfloat16, torch.float16):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)


def group_norm(channels: int) -> GroupNorm:
    """Group normalisation with min(32, channels/4) groups and eps 1e-6. Raises HarnessError where the channels do not divide into them."""
    return GroupNorm(normalisation_groups(channels), channels, eps=1e-6)


class Linear(nn.Module):
    """An affine map of the last axis. `gain` scales the Xavier-uniform initial weights; the bias starts at zero."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Conv2d(nn.Module):
    """A same-size convolution of odd kernel width; `up` filters and doubles the size first, `down` filters and halves it.

    The separable `resample_filter` f acts on each channel separately: `down` convolves with f f^T / sum(f)^2 at stride 2, `up` with four
    times its transpose. `fused` (of the NCSN++ encoder) halves after the convolution instead of before.
    """

    resample_filter: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        up: bool = False,
        down: bool = False,
        resample_filter: tuple[int, ...] = BOX,
        fused: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.up, self.down, self.fused, self.gain, self.pad = up, down, fused, gain, kernel // 2
        self.box = tuple(resample_filter) == BOX
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.register_buffer("resample_filter", None)
        if up or down:
            f = torch.tensor(resample_filter, dtype=torch.float32)
            self.resample_filter = (torch.outer(f, f) / f.sum() ** 2)[None, None]

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            if self.box and self.pad == 0:  # commutes with a 1x1 convolution, which then has a quarter of the pixels
                return _nearest(F.conv2d(x, self.weight, self.bias))
            x = _nearest(x) if self.box else self._filter_up(x)
        elif self.down and not self.fused:
            x = F.avg_pool2d(x, 2) if self.box else self._filter_down(x, self._filter_pad)
        elif self.down:
            x = F.conv2d(x, self.weight, padding=self.pad + self._filter_pad)
            return self._filter_down(x, 0) + self.bias[:, None, None]
        return F.conv2d(x, self.weight, self.bias, padding=self.pad)

    @property
    def _filter_pad(self) -> int:
        return (self.resample_filter.shape[-1] - 1) // 2

    def _filter_up(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        weight = (4 * self.resample_filter).expand(channels, 1, -1, -1)
        return F.conv_transpose2d(x, weight, groups=channels, stride=2, padding=self._filter_pad)

    def _filter_down(self, x: Tensor, padding: int) -> Tensor:
        channels = x.shape[1]
        return F.conv2d(x, self.resample_filter.expand(channels, 1, -1, -1), groups=channels, stride=2, padding=padding)


def _nearest(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class PositionalEmbedding(nn.Module):
    """c (N,) -> (N, channels): sin then cos of c 10000^(-k/(channels/2 - 1)), k = 0 .. channels/2 - 1 (DDPM++; both ends included)."""

    frequencies: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        frequencies = 10000.0 ** -(torch.arange(half, dtype=torch.float32) / max(half - 1, 1))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, c: Tensor) -> Tensor:
        angles = c[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class FourierEmbedding(nn.Module):
    """c (N,) -> (N, channels): sin then cos of 2 pi c freqs, freqs ~ N(0, 16^2) drawn once and kept (NCSN++)."""

    scale = 16.0
    freqs: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.empty(channels // 2))

    def forward(self, c: Tensor) -> Tensor:
        angles = c[:, None] * (2 * math.pi * self.freqs)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


def add_labels(emb: Tensor, labels: Tensor | None, map_label: Linear | None) -> Tensor:
    """emb (N, channels) plus the map of labels (N, classes), one-hot, None or zero rows for no class. map_label: None without classes."""
    if map_label is None:
        if labels is not None:
            raise ValueError("labels given to a network without classes")
        return emb
    classes = map_label.weight.shape[1]
    one_hot = emb.new_zeros(1, classes) if labels is None else labels.to(emb.dtype)
    return emb + map_label(one_hot * math.sqrt(classes))


class UNetBlock(nn.Module):
    """Residual block: GN-SiLU-conv0 (resampling inside), add the embedding, GN-SiLU-dropout-conv1, skip, then optional self-attention.

    forward(x (N, inputs, H, W), emb (N, emb_channels)) -> (N, outputs, H', W'); every sum with a skip is scaled by sqrt(1/2).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        emb_channels: int,
        *,
        up: bool = False,
        down: bool = False,
        attention: bool = False,
        dropout: float = 0.0,
        resample_filter: tuple[int, ...] = BOX,
    ) -> None:
        super().__init__()
        self.dropout, self.attention = dropout, attention
        resampling = functools.partial(Conv2d, up=up, down=down, resample_filter=resample_filter)
        self.norm0 = group_norm(inputs)
        self.conv0 = resampling(inputs, outputs, 3)
        self.affine = Linear(emb_channels, outputs)
        self.norm1 = group_norm(outputs)
        self.conv1 = Conv2d(outputs, outputs, 3, gain=ZERO_GAIN)
        self.skip = resampling(inputs, outputs, 1) if inputs != outputs or up or down else None
        if attention:
            self.norm2 = group_norm(outputs)
            self.qkv = Conv2d(outputs, 3 * outputs, 1, gain=math.sqrt(0.2))
            self.proj = Conv2d(outputs, outputs, 1, gain=ZERO_GAIN)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        y = self.conv0(F.silu(self.norm0(x)))
        y = F.silu(self.norm1(y + self.affine(emb)[:, :, None, None]))
        if self.training and self.dropout > 0:
            y = F.dropout(y, self.dropout)
        y = (self.conv1(y) + (x if self.skip is None else self.skip(x))) * SKIP_SCALE
        return (y + self._attend(y)) * SKIP_SCALE if self.attention else y

    def _attend(self, x: Tensor) -> Tensor:
        """One head of self-attention over the pixels of x (N, C, H, W), as matrix products over rows of channels."""
        n, c, h, w = x.shape
        rows = self.norm2(x).flatten(2).transpose(1, 2)
        # EDM's 3C outputs are ordered (channel, q/k/v); regrouping the small weight avoids a strided read of the activations.
        weight = self.qkv.weight.view(c, 3, c).transpose(0, 1).reshape(3 * c, c)
        bias = self.qkv.bias.view(c, 3).t().reshape(3 * c)
        q, k, v = F.linear(rows, weight, bias).chunk(3, dim=-1)
        rows = F.linear(attention(q, k, v), self.proj.weight.view(c, c), self.proj.bias)
        return rows.transpose(1, 2).reshape(n, c, h, w)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(C)) v for q, k, v (N, L, C); scores and softmax are in at least float32, also under autocast.

    Written out because the fused kernels have neither a forward-mode nor a second derivative, which the measurements need.
    """
    with torch.autocast(q.device.type, enabled=False):
        wide = torch.promote_types(q.dtype, torch.float32)
        scores = (q.to(wide) * q.shape[-1] ** -0.5) @ k.to(wide).transpose(1, 2)
        return scores.softmax(dim=-1).to(v.dtype) @ v
