"""Feature networks beside the one that measures a data set by default: DINOv2, CLIP, or a class of one's own in one file.

    class MyFeatures:                           # my.py; used by: harness measure RUN --what metrics --features my.py:MyFeatures
        def __init__(self, device): ...         # loads what it needs
        def __call__(self, images): ...         # uint8 (n, C, H, W) -> features (n, d), or (features, class probabilities (n, k))

Values of different networks have different names (fid@MyFeatures) and protocols, so they never share a column.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.config.own_classes import FEATURE_NETWORKS, Named, load
from harness.errors import HarnessError, MissingFile, visible
from harness.locations import data_root
from harness.metrics.features import Extractor, Features, extract
from harness.metrics.inception import InceptionExtractor

BATCH = 100


@dataclass(frozen=True)
class VisionTransformer:
    """A public network of timm. file: its weights in the folder weights/ of the data folder. mean, std: of RGB values in [0, 1]."""

    architecture: str
    file: str
    source: str
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    options: tuple[tuple[str, Any], ...] = ()


DINOV2 = VisionTransformer(
    architecture="vit_large_patch14_dinov2",
    file="dinov2_vitl14_pretrain.pth",
    source="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    size=224,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    options=(("img_size", 224), ("num_classes", 0)),
)
"""FD-DINOv2 of Stein et al. 2023 (arXiv 2306.04675): ViT-L/14, the class token after the last normalisation, 1,024 features."""
CLIP = VisionTransformer(
    architecture="vit_large_patch14_clip_224",
    file="vit_large_patch14_clip_224.openai.safetensors",
    source="the file model.safetensors of timm's vit_large_patch14_clip_224.openai",
    size=224,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    options=(("num_classes", 768),),
)
"""CLIP's ViT-L/14 (Radford et al. 2021, arXiv 2103.00020): the image embedding, 768 features."""
TRANSFORMERS = {"dinov2": DINOV2, "clip": CLIP}
KNOWN = FEATURE_NETWORKS


def build(choice: Named, device: torch.device | str = "cpu") -> Extractor:
    """The extractor that a command line names. Raises HarnessError for missing weights or packages, and as `OwnExtractor`."""
    if choice.path:
        return OwnExtractor(choice, device)
    if choice.name == "inception":
        return InceptionExtractor(device=device)
    return TransformerExtractor(choice.name, TRANSFORMERS[choice.name], device)


def own_protocol(choice: Named) -> dict[str, object]:
    """What a value measured with a class of one's own depends on, known without running it."""
    return {"network": choice.name, "sha256": choice.sha256, "batch": BATCH}


class OwnExtractor:
    """Runs a class of one's own, and checks what it returns.

    Raises HarnessError where the class cannot be made or called, changes its input, or returns other than one finite row per image.
    """

    def __init__(self, choice: Named, device: torch.device | str) -> None:
        self.choice, self.device = choice, torch.device(device)
        self._network = self._guarded(load(choice), self.device)

    def extract(self, images: Tensor | Iterable[Tensor]) -> Features:
        """As `Extractor.extract`."""
        return extract(images, BATCH, self._measured)

    def protocol(self) -> dict[str, object]:
        """The class and the hash of its file."""
        return own_protocol(self.choice)

    def _measured(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        images = batch.to(self.device)
        before = images.clone()
        returned = self._guarded(self._network, images)
        if not torch.equal(images, before):
            raise self._error("must not change the images", "changed in place", "features of a copy")
        features, probs = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
        probs = torch.ones(len(batch), 1) if probs is None else probs
        for what, values in (("features", features), ("probabilities", probs)):
            good = isinstance(values, Tensor) and values.is_floating_point() and values.ndim == 2 and len(values) == len(batch)
            if not good:
                found = f"{values.dtype} {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
                raise self._error(f"must return {what} of each image", found, f"a floating-point tensor ({len(batch)}, d)")
            if not values.isfinite().all():
                raise self._error(f"must return finite {what}", "NaN or infinity", "finite numbers")
        return features.detach().float(), probs.detach().float()

    def _guarded(self, function: Callable[..., Any], *arguments: object) -> Any:
        try:
            return function(*arguments)
        except (Exception, SystemExit) as error:
            raise self._error("fails", f"{type(error).__name__}: {error}", "__init__(device) and __call__(images)") from error

    def _error(self, what: str, found: object, expected: str) -> HarnessError:
        where = f"{self.choice.path}:{self.choice.name}"
        return HarnessError(f"this feature network {what}", where=where, found=visible(str(found))[:300], expected=expected)


class TransformerExtractor:
    """A vision transformer of timm on images resized by torch's antialiased bicubic filter, as EDM2 (arXiv 2312.02696) resizes for DINOv2.

    Grey images are repeated to three channels. Raises HarnessError where timm is not installed, or the weights are missing or do not fit;
    nothing is downloaded.
    """

    def __init__(self, name: str, settings: VisionTransformer, device: torch.device | str = "cpu") -> None:
        self.name, self.settings, self.device = name, settings, torch.device(device)
        path = data_root() / "weights" / settings.file
        if not path.is_file():
            raise MissingFile(f"the weights of {name} are missing", where=path, expected=f"{settings.source}, copied to that place")
        try:
            import timm
        except ImportError as error:
            install = "pip install 'consistency-harness[features]'"
            raise HarnessError("timm is not installed", where=f"--features {name}", found=str(error), nearest=install) from error
        with path.open("rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        network = timm.create_model(settings.architecture, pretrained=False, **dict(settings.options))
        try:
            network.load_state_dict(_state(path, network))
        except (RuntimeError, ValueError, KeyError, OSError, EOFError) as error:
            found = " ".join(str(error).split())[:200]
            raise HarnessError(f"not the weights of {settings.architecture}", where=path, found=found, expected=settings.source) from error
        self._network = network.eval().requires_grad_(False).to(self.device)
        self._mean, self._std = (torch.tensor(values, device=self.device)[:, None, None] for values in (settings.mean, settings.std))

    def extract(self, images: Tensor | Iterable[Tensor]) -> Features:
        """As `Extractor.extract`; it knows no classes."""
        return extract(images, BATCH, self._measured)

    def protocol(self) -> dict[str, object]:
        """The network and the hash of its weights."""
        return {"network": self.settings.architecture, "sha256": self.sha256, "size": self.settings.size, "batch": BATCH}

    def _measured(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        x = batch.to(self.device).float() / 255
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        x = F.interpolate(x, (self.settings.size, self.settings.size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        return self._network((x - self._mean) / self._std).float(), torch.ones(len(batch), 1)


def _state(path: Path, network: torch.nn.Module) -> dict[str, Tensor]:
    """The weights in a file under timm's names."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return dict(checkpoint_filter_fn(state, network))  # type: ignore[arg-type]
