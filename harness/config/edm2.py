"""The sizes of EDM2's U-Net (Karras et al. 2024, arXiv 2312.02696, table 2) as network settings. No torch."""

from __future__ import annotations

from typing import Literal, get_args

from harness.config.parts import Network
from harness.errors import unknown

Edm2Size = Literal["xs", "s", "m", "l", "xl"]
BASE_CHANNELS: dict[Edm2Size, int] = {"xs": 128, "s": 192, "m": 256, "l": 320, "xl": 384}
"""Channels of the finest level; the sizes differ in nothing else. S is the network of Table 2's ImageNet-64 rows."""


def edm2_network(size: Edm2Size, image: int = 64, dropout: float = 0.0, dropout_below: int = 16) -> Network:
    """EDM2's U-Net of a size for square images of `image` pixels per side: four levels, attention at 16 and 8 pixels, 64 channels a head.

    dropout: rate on the levels of at most `dropout_below` pixels per side; 0 on the others. Raises UnknownName for an unknown size.
    """
    if size not in BASE_CHANNELS:
        raise unknown("size of EDM2", size, get_args(Edm2Size), where="network")
    mult = (1, 2, 3, 4)
    sides = [image >> level for level in range(len(mult))]
    return Network(
        kind="edm2",
        base_channels=BASE_CHANNELS[size],
        channel_mult=mult,
        num_blocks=(3,) * len(mult),
        attention=tuple(side for side in (16, 8) if side in sides),
        dropout=tuple(dropout if side <= dropout_below else 0.0 for side in sides),
    )


def small_edm2(image: int, base_channels: int, mult: tuple[int, ...], blocks: int) -> Network:
    """A small EDM2 for square images of `image` pixels per side, without dropout.

    The coarsest level has attention, as in the published sizes; each head has `base_channels` channels.
    """
    return Network(
        kind="edm2",
        base_channels=base_channels,
        channel_mult=mult,
        num_blocks=(blocks,) * len(mult),
        attention=(image >> (len(mult) - 1),),
        dropout=(0.0,) * len(mult),
        channels_per_head=base_channels,
    )
