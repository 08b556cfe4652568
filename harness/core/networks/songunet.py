"""SongUNet: the U-Net of the EDM family, as DDPM++ and as NCSN++, with EDM's parameter names.

Karras et al. 2022 (arXiv 2206.00364), appendix F.2 and table 7; widths, residual blocks and dropout may differ from level to level, as in
Issenhuth et al. 2025 (arXiv 2406.09570).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.config.network_rules import resolutions
from harness.config.parts import Network
from harness.core.networks.layers import (
    BOX,
    SKIP_SCALE,
    ZERO_GAIN,
    Conv2d,
    FourierEmbedding,
    Linear,
    PositionalEmbedding,
    UNetBlock,
    add_labels,
    group_norm,
)


class SongUNet(nn.Module):
    """F(x, c_noise, labels) for square images of `size`, which must be divisible by 2^(levels-1).

    The decoder has one more block than the encoder on each level. The weights are uninitialised until `harness.core.networks.initialise` or
    a state dict fills them. Raises HarnessError for widths or sizes that do not fit together.
    """

    def __init__(self, network: Network, *, size: int, channels: int, label_dim: int = 0) -> None:
        super().__init__()
        base_channels, num_blocks, attention = network.base_channels, network.num_blocks, network.attention
        widths = [base_channels * mult for mult in network.channel_mult]
        sizes = resolutions(size, len(widths), attention)
        residual = network.kind == "ncsnpp"
        noise_channels = base_channels * (2 if residual else 1)
        emb_channels = 4 * base_channels
        resample_filter = (1, 3, 3, 1) if residual else BOX
        self.augment_dim = network.augment_dim

        self.map_noise = FourierEmbedding(noise_channels) if residual else PositionalEmbedding(noise_channels)
        self.map_label = Linear(label_dim, noise_channels) if label_dim else None
        self.map_augment = Linear(self.augment_dim, noise_channels, bias=False) if self.augment_dim else None
        self.map_layer0 = Linear(noise_channels, emb_channels)
        self.map_layer1 = Linear(emb_channels, emb_channels)

        def block(inputs: int, outputs: int, level: int, **options: bool) -> UNetBlock:
            return UNetBlock(inputs, outputs, emb_channels, dropout=network.dropout[level], resample_filter=resample_filter, **options)

        self.enc = nn.ModuleDict({f"{size}x{size}_conv": Conv2d(channels, base_channels, 3)})
        skips = [base_channels]
        width, aux = base_channels, channels
        for level, (res, out) in enumerate(zip(sizes, widths, strict=True)):
            if level > 0:
                self.enc[f"{res}x{res}_down"] = block(width, width, level, down=True)
                skips.append(width)
                if residual:
                    shrink = Conv2d(aux, width, 3, down=True, resample_filter=resample_filter, fused=True)
                    self.enc[f"{res}x{res}_aux_residual"] = shrink
                    aux = width
            for index in range(num_blocks[level]):
                self.enc[f"{res}x{res}_block{index}"] = block(width, out, level, attention=res in attention)
                skips.append(out)
                width = out

        self.dec = nn.ModuleDict()
        for level, (res, out) in reversed(list(enumerate(zip(sizes, widths, strict=True)))):
            if level == len(widths) - 1:
                self.dec[f"{res}x{res}_in0"] = block(width, width, level, attention=True)
                self.dec[f"{res}x{res}_in1"] = block(width, width, level)
            else:
                self.dec[f"{res}x{res}_up"] = block(width, width, level, up=True)
            for index in range(num_blocks[level] + 1):
                attend = index == num_blocks[level] and res in attention
                self.dec[f"{res}x{res}_block{index}"] = block(width + skips.pop(), out, level, attention=attend)
                width = out
        self.dec[f"{size}x{size}_aux_norm"] = group_norm(width)
        self.dec[f"{size}x{size}_aux_conv"] = Conv2d(width, channels, 3, gain=ZERO_GAIN)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """x (N, C, H, W), c_noise (N,), labels (N, label_dim) one-hot, None or zero rows for no class -> (N, C, H, W)."""
        emb = self._embed(c_noise, labels)
        skips: list[Tensor] = []
        aux = x
        for name, module in self.enc.items():
            if name.endswith("_aux_residual"):
                x = aux = skips[-1] = (x + module(aux)) * SKIP_SCALE
            else:
                x = module(x, emb) if isinstance(module, UNetBlock) else module(x)
                skips.append(x)
        for name, module in self.dec.items():
            if isinstance(module, UNetBlock):
                x = module(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, emb)
            else:
                x = module(F.silu(x) if name.endswith("_aux_conv") else x)
        return x

    def _embed(self, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        emb = add_labels(self.map_noise(c_noise), labels, self.map_label)
        if self.map_augment is not None:  # adds zero; data-parallel training needs the weight in the graph
            emb = emb + self.map_augment(emb.new_zeros(1, self.augment_dim))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))
