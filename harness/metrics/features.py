"""The interface of the networks that measure images: uint8 images in, features and class probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from harness.config.parts import Choice
from harness.errors import HarnessError


@dataclass(frozen=True)
class Features:
    """features (n, d) and class probabilities probs (n, k) of the same n images, float32; k = 1 for a network that knows no classes."""

    features: np.ndarray
    probs: np.ndarray

    def __len__(self) -> int:
        return len(self.features)


class Extractor(Protocol):
    """A network that measures images."""

    device: torch.device

    def extract(self, images: torch.Tensor | Iterable[torch.Tensor]) -> Features:
        """Features of uint8 images (n, C, H, W), given as one tensor or as batches of any size."""

    def protocol(self) -> dict[str, object]:
        """What a value measured with this network depends on: plain JSON values."""


def quantise(x: torch.Tensor, sample_range: Choice = "paper", quantisation: Choice = "paper") -> torch.Tensor:
    """Samples x (n, C, H, W), float, to uint8 levels of [-1, 1]; -1 becomes 0 and 1 becomes 255.

    sample_range: paper clips to [-1, 1]; released maps the smallest and largest value of this batch there. quantisation: paper rounds to
    the nearest level; released rounds down, which lowers 63 of the 256 levels of a real image by one. Raises HarnessError for values that
    are not finite.
    """
    if bad := int((~x.isfinite()).sum()):
        raise HarnessError("the samples are not finite", where="generated images", found=f"{bad} of {x.numel()} values", expected="none")
    if sample_range == "released":
        low, high = x.aminmax()
        unit = (x - low) / (high - low).clamp_min(torch.finfo(x.dtype).tiny)
    else:
        unit = (x.clamp(-1, 1) + 1) / 2
    levels = unit * 255
    return (levels.round() if quantisation == "paper" else levels).to(torch.uint8)


def batches(images: torch.Tensor | Iterable[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    """The images in batches of exactly `size` (the last may be smaller), however they are batched on input, so that features do not
    depend on it. Raises ValueError for anything but uint8 of four dimensions."""
    rest: torch.Tensor | None = None
    for part in [images] if isinstance(images, torch.Tensor) else images:
        if part.dtype != torch.uint8 or part.ndim != 4:
            raise ValueError(f"expected uint8 images (n, C, H, W), got {part.dtype} of shape {tuple(part.shape)}")
        *full, rest = (part if rest is None else torch.cat([rest, part])).split(size)
        yield from full
    if rest is not None and len(rest):
        yield rest


@contextmanager
def exact() -> Iterator[None]:
    """No gradients, float32 without TF32, deterministic convolutions: features do not depend on settings made for training."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def extract(
    images: torch.Tensor | Iterable[torch.Tensor], size: int, network: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
) -> Features:
    """The features and probabilities that `network` gives for all images, `size` at a time. Raises ValueError if there are no images."""
    with exact():
        outputs = [tuple(output.cpu() for output in network(batch)) for batch in batches(images, size)]
    if not outputs:
        raise ValueError("no images to measure")
    return Features(*(torch.cat(parts).numpy() for parts in zip(*outputs, strict=True)))
