"""EDM2's U-Net: every layer keeps the magnitude of its input, every weight is normalised where it is used.

Karras et al. 2024 (arXiv 2312.02696), configuration G and its figure 21, with EDM2's parameter names. The magnitude of a tensor is the root
of its mean square. There are no biases and no group normalisation. Every layer is differentiable twice and in forward mode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.config.network_rules import attention_heads, resolutions
from harness.config.parts import Network
from harness.core.networks.layers import attention

EPSILON = 1e-4
"""Added to a magnitude before a tensor is divided by it."""
SILU_MAGNITUDE = 0.596
"""Magnitude of SiLU(x) for x ~ N(0, 1), equation (81)."""
BRANCH = 0.3
"""Share of the residual branch, and of attention, in its sum with the main path, equation (88)."""
LABELS = 0.5
"""Share of the labels in their sum with the embedding of the noise level."""
SKIP = 0.5
"""Share of the encoder's features in their concatenation with the decoder's, equation (103)."""
CLIP = 256.0
"""Largest absolute value of the activations after a block."""


def unit_magnitude(x: Tensor, dims: Sequence[int]) -> Tensor:
    """x / (1e-4 + magnitude of x over `dims`), like x; the magnitude is computed in at least float32. A zero x stays zero."""
    wide = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=tuple(dims), keepdim=True, dtype=wide)
    magnitude = norm * math.prod([x.shape[dim] for dim in dims]) ** -0.5
    return x / (magnitude + EPSILON).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU over its magnitude for normal input, equation (81)."""
    return F.silu(x) / SILU_MAGNITUDE


def mp_sum(a: Tensor, b: Tensor, share: float) -> Tensor:
    """((1 - share) a + share b) / sqrt((1 - share)^2 + share^2), equation (88): keeps the magnitude of uncorrelated a and b."""
    scale = math.hypot(1 - share, share)
    return a * ((1 - share) / scale) + b * (share / scale)


def mp_cat(a: Tensor, b: Tensor, share: float) -> Tensor:
    """a and b, (N, C_a, H, W) and (N, C_b, H, W), concatenated over channels, equation (103).

    The magnitude of the whole is that of a and b, and b contributes in the proportion share : 1 - share, whatever the numbers of channels.
    """
    of_a, of_b = a.shape[1], b.shape[1]
    scale = math.sqrt((of_a + of_b) / ((1 - share) ** 2 + share**2))
    return torch.cat([a * (scale * (1 - share) / math.sqrt(of_a)), b * (scale * share / math.sqrt(of_b))], dim=1)


class FourierFeatures(nn.Module):
    """c (N,) -> (N, channels): sqrt(2) cos(c freqs + phases), equation (75); freqs ~ 2 pi N(0, 1), phases ~ U(0, 2 pi), drawn once."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.empty(channels))
        self.register_buffer("phases", torch.empty(channels))

    def forward(self, c: Tensor) -> Tensor:
        return math.sqrt(2) * (c[:, None] * self.freqs + self.phases).cos()


class UnitConv(nn.Module):
    """A convolution of odd width and the same size, or with kernel = () a linear map of the last axis, without a bias.

    The weight of each output is normalised to unit magnitude and divided by sqrt(number of its inputs), equation (47), so uncorrelated
    inputs keep their magnitude. forward(x, gain) multiplies the result by `gain`. Normalisation, and the linear map, are in at least
    float32 also under autocast. The weight starts as N(0, 1).
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, *kernel))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            weight = unit_magnitude(self.weight, _inputs_of(self.weight)) * (gain * self.weight[0].numel() ** -0.5)
            if weight.ndim == 2:
                return F.linear(x.to(weight.dtype), weight)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


def _inputs_of(weight: Tensor) -> range:
    """The axes of a weight over which one output is normalised: all but the first."""
    return range(1, weight.ndim)


def normalised_weights(module: nn.Module) -> list[nn.Parameter]:
    """The weights in a network that are normalised where they are used; none in networks other than EDM2's."""
    return [layer.weight for layer in module.modules() if isinstance(layer, UnitConv)]


@torch.no_grad()
def force_normalisation(weights: Sequence[nn.Parameter]) -> None:
    """Forced weight normalisation, equation (66): replaces `normalised_weights` by weights of unit magnitude.

    The trainer calls it at the start of each training step, so that the size of an update is relative to a weight of known size. Where each
    weight is normalised when it is used, the network is the same function before and after, up to rounding and EPSILON.
    """
    for weight in weights:
        weight.copy_(unit_magnitude(weight, _inputs_of(weight)))


class Block(nn.Module):
    """A residual block of the encoder or of the decoder, and optional cosine attention.

    forward(x (N, inputs, H, W), emb (N, emb_channels)) -> (N, outputs, H', W'). scale: size of the output over that of the input, 1, 2 or
    0.5. The encoder normalises each pixel of its input; the embedding multiplies the channels by 1 + emb_gain * (a map of it).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        emb_channels: int,
        *,
        decoder: bool,
        scale: float = 1.0,
        heads: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.decoder, self.scale, self.heads, self.dropout = decoder, scale, heads, dropout
        self.emb_gain = nn.Parameter(torch.zeros(()))
        self.conv_res0 = UnitConv(inputs if decoder else outputs, outputs, (3, 3))
        self.emb_linear = UnitConv(emb_channels, outputs)
        self.conv_res1 = UnitConv(outputs, outputs, (3, 3))
        self.conv_skip = UnitConv(inputs, outputs, (1, 1)) if inputs != outputs else None
        self.attn_qkv = UnitConv(outputs, 3 * outputs, (1, 1)) if heads else None
        self.attn_proj = UnitConv(outputs, outputs, (1, 1)) if heads else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = _resample(x, self.scale)
        if not self.decoder:
            x = unit_magnitude(x if self.conv_skip is None else self.conv_skip(x), (1,))
        y = self.conv_res0(mp_silu(x))
        modulation = 1 + self.emb_linear(emb, self.emb_gain)
        y = mp_silu(y * modulation[:, :, None, None].to(y.dtype))
        if self.training and self.dropout > 0:
            y = F.dropout(y, self.dropout)
        y = self.conv_res1(y)
        if self.decoder and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, y, BRANCH)
        if self.attn_qkv is not None and self.attn_proj is not None:
            x = mp_sum(x, self.attn_proj(cosine_attention(self.attn_qkv(x), self.heads)), BRANCH)
        return x.clamp(-CLIP, CLIP)


def _resample(x: Tensor, scale: float) -> Tensor:
    """x with half the pixels per axis by averages of 2x2, or twice the pixels by repetition."""
    if scale == 1:
        return x
    return F.avg_pool2d(x, 2) if scale < 1 else F.interpolate(x, scale_factor=2, mode="nearest")


def cosine_attention(qkv: Tensor, heads: int) -> Tensor:
    """Self-attention over pixels with q, k and v of unit magnitude in each head; qkv (N, 3C, H, W) -> (N, C, H, W).

    The 3C channels are ordered (head, channel, q/k/v), as in EDM2's weights. Written out, not fused: the fused kernels have neither a
    forward-mode nor a second derivative, and on GPUs the gradient that they give differs from call to call.
    """
    n, channels, height, width = qkv.shape[0], qkv.shape[1] // 3, *qkv.shape[2:]
    parts = unit_magnitude(qkv.reshape(n * heads, channels // heads, 3, height * width), (1,))
    q, k, v = parts.permute(2, 0, 3, 1).unbind(0)
    return attention(q, k, v).transpose(1, 2).reshape(n, channels, height, width)


class EDM2UNet(nn.Module):
    """F(x, c_noise, labels) for square images of `size`, which must be divisible by 2^(levels-1).

    Output and embeddings start at zero gain, so F = 0 at the start. On a level with attention, every block has it but those that change the
    resolution; so has the first block of the decoder. The weights are uninitialised until `harness.core.networks.initialise` or a state
    dict fills them. Raises HarnessError for widths or sizes that do not fit together.
    """

    def __init__(self, network: Network, *, size: int, channels: int, label_dim: int = 0) -> None:
        super().__init__()
        widths = [network.base_channels * mult for mult in network.channel_mult]
        sizes = resolutions(size, len(widths), network.attention)
        emb_channels, self.label_dim = max(widths), label_dim

        def block(inputs: int, outputs: int, level: int, *, decoder: bool, scale: float = 1.0, attends: bool = False) -> Block:
            heads = attention_heads(outputs, network.channels_per_head) if attends else 0
            return Block(inputs, outputs, emb_channels, decoder=decoder, scale=scale, heads=heads, dropout=network.dropout[level])

        self.out_gain = nn.Parameter(torch.zeros(()))
        self.emb_fourier = FourierFeatures(widths[0])
        self.emb_noise = UnitConv(widths[0], emb_channels)
        self.emb_label = UnitConv(label_dim, emb_channels) if label_dim else None

        self.enc = nn.ModuleDict({f"{size}x{size}_conv": UnitConv(channels + 1, widths[0], (3, 3))})
        width, skips = widths[0], [widths[0]]
        for level, (res, out) in enumerate(zip(sizes, widths, strict=True)):
            if level > 0:
                self.enc[f"{res}x{res}_down"] = block(width, width, level, decoder=False, scale=0.5)
                skips.append(width)
            for index in range(network.num_blocks[level]):
                self.enc[f"{res}x{res}_block{index}"] = block(width, out, level, decoder=False, attends=res in network.attention)
                skips.append(out)
                width = out

        self.dec = nn.ModuleDict()
        for level, (res, out) in reversed(list(enumerate(zip(sizes, widths, strict=True)))):
            if level == len(widths) - 1:
                self.dec[f"{res}x{res}_in0"] = block(width, width, level, decoder=True, attends=True)
                self.dec[f"{res}x{res}_in1"] = block(width, width, level, decoder=True)
            else:
                self.dec[f"{res}x{res}_up"] = block(width, width, level, decoder=True, scale=2.0)
            for index in range(network.num_blocks[level] + 1):
                attends = res in network.attention
                self.dec[f"{res}x{res}_block{index}"] = block(width + skips.pop(), out, level, decoder=True, attends=attends)
                width = out
        self.out_conv = UnitConv(width, channels, (3, 3))

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """x (N, C, H, W), c_noise (N,), labels (N, label_dim) one-hot, None or zero rows for no class -> (N, C, H, W)."""
        emb = self._embed(c_noise, labels)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)  # takes the place of biases
        skips: list[Tensor] = []
        for module in self.enc.values():
            x = module(x, emb) if isinstance(module, Block) else module(x)
            skips.append(x)
        for name, module in self.dec.items():
            x = module(mp_cat(x, skips.pop(), SKIP) if "_block" in name else x, emb)
        return self.out_conv(x, self.out_gain)

    def _embed(self, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        """The embedding of noise level and class, (N, emb_channels)."""
        emb = self.emb_noise(self.emb_fourier(c_noise))
        if self.emb_label is not None:
            one_hot = emb.new_zeros(1, self.label_dim) if labels is None else labels.to(emb.dtype)
            emb = mp_sum(emb, self.emb_label(one_hot * math.sqrt(self.label_dim)), LABELS)
        elif labels is not None:
            raise ValueError("labels given to a network without classes")
        return mp_silu(emb)
