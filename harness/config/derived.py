"""The network and schedule of a user's own images, by rules from their size, number and the scale. No torch.

docs/your-data.md states the rules for users. Each is a default, which --set changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.config.parts import CustomData, Data
from harness.config.run import Run, varied
from harness.errors import HarnessError

COARSEST = 8
"""Levels are added, each of half the resolution, until a side has at most so many pixels."""
MOST_COARSE = 16
"""Most pixels per side of the coarsest level, which has self-attention over all of them."""
LEAST_SIZE, MOST_SIZE = 4, 512
"""Pixels per side of an image."""
LEAST_IMAGES = 16
"""Training images of a set."""
BATCHES = 4
"""A batch has at most the images of the set over this number."""
DROPOUT_BELOW = 16
"""Levels of at most so many pixels per side have the paper scale's dropout of IC, as those of CelebA-64 and ImageNet-32."""


@dataclass(frozen=True)
class Rule:
    """What a scale gives a network. mult: channel multiplier of the first level and of the others. samples: most of one evaluation."""

    base_channels: int
    mult: tuple[int, int]
    blocks: int
    samples: int
    dropout: float = 0.0


RULES: Mapping[str, Rule] = {
    "digits": Rule(base_channels=16, mult=(1, 1), blocks=1, samples=2000),
    "fashion": Rule(base_channels=64, mult=(1, 2), blocks=2, samples=10_000),
    "paper": Rule(base_channels=128, mult=(1, 2), blocks=3, samples=50_000, dropout=0.2),
}
"""The scales that train on images."""


def level_sides(size: int) -> tuple[int, ...]:
    """Pixels per side of each level of the network for images of size x size, finest first: halved while more than 8 and even; images of at
    most 8 pixels, once where they are even.

    Raises HarnessError, with the nearest size that works, for a size out of range or one that ends above 16.
    """
    sides = _halved(size)
    if _fits(size):
        return sides
    expected = f"{LEAST_SIZE} to {MOST_SIZE} pixels that can be halved until at most {MOST_COARSE} are left, such as 16, 28, 32 or 64"
    found = f"{size}x{size}" + (f", halved to {sides[-1]}" if LEAST_SIZE <= size <= MOST_SIZE else "")
    close = min(filter(_fits, range(LEAST_SIZE, MOST_SIZE + 1)), key=lambda other: abs(other - size))
    raise HarnessError("no network of the harness fits images of this size", where="--size", found=found, expected=expected, nearest=close)


def _halved(size: int) -> tuple[int, ...]:
    sides = [size]
    while sides[-1] > COARSEST and not sides[-1] % 2:
        sides.append(sides[-1] // 2)
    if len(sides) == 1 and size <= COARSEST and not size % 2:
        sides.append(size // 2)
    return tuple(sides)


def _fits(size: int) -> bool:
    return LEAST_SIZE <= size <= MOST_SIZE and _halved(size)[-1] <= MOST_COARSE


def derived(name: str, custom: CustomData, base: Run) -> Run:
    """The run of IC with seed 0 on a user's set at the scale of `base`, whose optimizer, rates, steps, EMA and objective it keeps."""
    rule, sides = RULES[base.scale], level_sides(custom.shape[1])
    first, others = rule.mult
    network: dict[str, Any] = {
        "kind": "ddpmpp",
        "base_channels": rule.base_channels,
        "channel_mult": (first, *(others,) * (len(sides) - 1)),
        "num_blocks": (rule.blocks,) * len(sides),
        "attention": (),
        "dropout": tuple(rule.dropout if side <= DROPOUT_BELOW else 0.0 for side in sides),
    }
    batch = base.train.batch
    while batch > max(1, custom.train // BATCHES):
        batch //= 2
    evaluation = {"samples": min(rule.samples, custom.train)}
    return varied(base, network=network, train={"batch": batch}, evaluation=evaluation).model_copy(
        update={"data": Data(name=name, custom=custom)}
    )
