"""One interface to the networks that measure: uint8 images in, features and class probabilities out, with the protocol that names them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch

from harness.errors import HarnessError


@dataclass(frozen=True)
class Features:
    """features (n, d) and class probabilities probs (n, k) of the same n images, float32."""

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


def quantise(
    x: torch.Tensor, range_mode: Literal["clip", "minmax"] = "clip", rounding: Literal["round", "truncate"] = "round"
) -> torch.Tensor:
    """Samples x (n, C, H, W), float, to uint8 levels of [-1, 1]; -1 becomes 0 and 1 becomes 255.

    range_mode: clip to [-1, 1], or map the smallest and largest value of this batch there. rounding: to the nearest level, or down (which
    moves 63 of the 256 levels of a real image by one). Raises HarnessError for values that are not finite.
    """
    if bad := int((~x.isfinite()).sum()):
        raise HarnessError("the samples are not finite", where="generated images", found=f"{bad} of {x.numel()} values", expected="none")
    if range_mode == "minmax":
        low, high = x.aminmax()
        unit = (x - low) / (high - low).clamp_min(torch.finfo(x.dtype).tiny)
    else:
        unit = (x.clamp(-1, 1) + 1) / 2
    levels = unit * 255
    return (levels.round() if rounding == "round" else levels).to(torch.uint8)


def batches(images: torch.Tensor | Iterable[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    """The images in batches of exactly `size` (the last may be smaller), whatever the sizes they come in, so that features do not
    depend on how the images were made. Raises ValueError for anything but uint8 of four dimensions."""
    waiting: list[torch.Tensor] = []
    count = 0
    for part in [images] if isinstance(images, torch.Tensor) else images:
        if part.dtype != torch.uint8 or part.ndim != 4:
            raise ValueError(f"expected uint8 images (n, C, H, W), got {part.dtype} of shape {tuple(part.shape)}")
        waiting, count = [*waiting, part], count + len(part)
        if count >= size:
            *full, rest = torch.cat(waiting).split(size) if len(waiting) > 1 else part.split(size)
            waiting, count = ([], 0) if len(rest) == size else ([rest], len(rest))
            yield from full if waiting else [*full, rest]
    if count:
        yield torch.cat(waiting)


@contextmanager
def exact() -> Iterator[None]:
    """No gradients, float32 without TF32, deterministic convolutions: the same features whatever the training set up."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
