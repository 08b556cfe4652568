"""Which widths and levels of a U-Net fit together, and which images they fit; the plan and the networks share these rules. No torch."""

from __future__ import annotations

import math

from harness.errors import HarnessError


def nearest_multiple(value: int, step: int) -> int:
    """The multiple of `step` nearest to `value`, at least `step`."""
    return max(step, round(value / step) * step)


def normalisation_groups(channels: int) -> int:
    """Groups of a layer's group normalisation, min(32, channels/4). Raises HarnessError where the channels do not divide into them."""
    if channels % 4 or channels % min(32, channels // 4):
        raise HarnessError(
            "a layer of the network cannot be split into normalisation groups", where="network.base_channels, network.channel_mult",
            found=f"a layer of {channels} channels", expected="a multiple of 4, and from 128 channels on a multiple of 32",
            nearest=f"a layer of {nearest_multiple(channels, 32 if channels >= 128 else 4)} channels",
        )  # fmt: skip
    return min(32, channels // 4)


def attention_heads(channels: int, channels_per_head: int) -> int:
    """Heads of EDM2's self-attention. Raises HarnessError where the channels do not divide into them."""
    if channels % channels_per_head:
        raise HarnessError(
            "a level with self-attention cannot be split into heads", where="network.channels_per_head", found=f"{channels} channels",
            expected=f"a multiple of {channels_per_head} channels", nearest=math.gcd(channels, channels_per_head),
        )  # fmt: skip
    return channels // channels_per_head


def resolutions(size: int, levels: int, attention: tuple[int, ...]) -> list[int]:
    """Pixels per side on each level of a U-Net for images of `size` pixels per side, finest first.

    Raises HarnessError unless the images can be halved that often and each resolution of `attention` is one of these.
    """
    step = 2 ** (levels - 1)
    if size < step or size % step:
        raise HarnessError(
            f"images of {size}x{size} do not fit a network of {levels} levels", where="network.channel_mult", found=f"size {size}",
            expected=f"a multiple of {step}", nearest=f"size {nearest_multiple(size, step)}",
        )  # fmt: skip
    sides = [size >> level for level in range(levels)]
    absent = sorted(set(attention) - set(sides))
    if absent:
        raise HarnessError(
            f"no level of the network has resolution {absent[0]} for self-attention", where="network.attention",
            found=attention, expected=f"some of {tuple(sides)}", nearest=min(sides, key=lambda side: abs(side - absent[0])),
        )  # fmt: skip
    return sides
