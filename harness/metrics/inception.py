"""Inception features by clean-fid's definition (Parmar et al. 2022, arXiv 2104.11222), in its modes legacy_tensorflow and clean.

legacy_tensorflow: the TorchScript network resizes the images, as the original TensorFlow graph did. clean: bicubic resize to 299 x 299
by PIL in float, no quantisation. The network and the resize are clean-fid's own; nothing is downloaded unless `fetch` is called.
Class probabilities (1,008, no output bias, as in the original Inception Score) come from the same pass.
"""

from __future__ import annotations

import hashlib
import os
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from harness.errors import DamagedFile, MissingFile
from harness.locations import data_root
from harness.metrics.features import Features, exact, extract
from harness.store import stand_ins
from harness.store.files import atomic_file

FILE = "inception-2015-12-05.pt"
URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{FILE}"  # the address clean-fid 0.1.35 declares
SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"  # as k-diffusion 0.1.1.post1 pins this file
NETWORK = "inception-v3-2015-12-05"
BATCH = 100  # fixed: on GPUs the features depend slightly on it
DIM = 2048


def weights_path() -> Path:
    """Path of the weights file: weights/ in the data folder ($HARNESS_DATA, else data/ in the project)."""
    return data_root() / "weights" / FILE


def weights_status(path: Path | None = None, sha256: str | None = None) -> tuple[Path, bool, str]:
    """(path, ok, message) of the weights file; reads it, never fetches it.

    sha256: None for that of the network, or, in the data folder of a rehearsal, for that of its stand-in.
    """
    path = path or weights_path()
    sha256 = sha256 or stand_ins.inception_sha256(data_root()) or SHA256
    if not path.is_file():
        return path, False, f"missing; fetch it with `python -m harness.metrics.inception`, or put {URL} there"
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != sha256:
        return path, False, f"sha256 is {actual}, expected {sha256}: damaged or another file; remove it and fetch it again"
    stand_in = ", the stand-in of a rehearsal" if sha256 == stand_ins.inception_sha256(data_root()) else ""
    return path, True, f"present{stand_in}, {path.stat().st_size / 1e6:.0f} MB, sha256 {actual[:12]}"


def fetch(path: Path | None = None, url: str = URL, sha256: str = SHA256) -> Path:
    """Downloads the weights to a temporary file beside the target, checks and renames it. A valid file is left alone.

    Raises HarnessError for an address or folder that cannot be used, or another sha256; a file at `path` is then left unchanged.
    """
    path = path or weights_path()
    if weights_status(path, sha256)[1]:
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=60) as source, atomic_file(path) as target:
            digest = hashlib.sha256()
            while chunk := source.read(1 << 20):
                target.write(chunk)
                digest.update(chunk)
            if digest.hexdigest() != sha256:  # raised before the file is renamed
                raise DamagedFile("the fetched file is not the Inception network", where=url, found=digest.hexdigest(), expected=sha256)
    except OSError as error:
        advice = f"download it elsewhere and copy it to {path}"
        raise MissingFile("the Inception weights could not be fetched", where=url, found=error, nearest=advice) from None
    return path


class InceptionExtractor:
    """Features (n, 2048) and probabilities of uint8 images with 1 or 3 channels, any size.

    sha256 may name another file of the same interface; the protocol records it. None: as for `weights_status`. Raises HarnessError for
    missing or wrong weights.
    """

    def __init__(
        self,
        mode: Literal["legacy_tensorflow", "clean"] = "legacy_tensorflow",
        device: torch.device | str = "cpu",
        path: Path | None = None,
        sha256: str | None = None,
    ) -> None:
        from cleanfid.inception_torchscript import InceptionV3W  # here, because clean-fid takes a second to import
        from cleanfid.resize import build_resizer

        stand_in = stand_ins.inception_sha256(data_root())
        sha256 = sha256 or stand_in or SHA256
        path, ok, message = weights_status(path, sha256)
        if not ok:
            raise MissingFile("the Inception weights are not ready", where=path, found=message, expected=f"sha256 {sha256}")
        self.mode, self.device, self.sha256 = mode, torch.device(device), sha256
        self.name = f"stand-in of {NETWORK}" if sha256 == stand_in else NETWORK
        self.resize = build_resizer("clean") if mode == "clean" else None
        self.network = InceptionV3W(str(path.parent), download=False, resize_inside=mode == "legacy_tensorflow").to(self.device).eval()
        self.probabilities = self._head()

    def protocol(self) -> dict[str, object]:
        return {"network": self.name, "sha256": self.sha256, "mode": self.mode, "batch": BATCH, "dim": DIM}

    def extract(self, images: torch.Tensor | Iterable[torch.Tensor]) -> Features:
        return extract(images, BATCH, self._measure)

    def _measure(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self._input(batch)
        features = self.network(x)
        return features[: len(batch)], self.probabilities(x, features)[: len(batch)]

    def _input(self, batch: torch.Tensor) -> torch.Tensor:
        """uint8 (n, C, H, W) as the network takes it: float (BATCH, 3, H, W) in [0, 255], a short batch padded with its last image."""
        batch = batch.expand(-1, 3, -1, -1) if batch.shape[1] == 1 else batch
        if self.resize:
            images = batch.permute(0, 2, 3, 1).cpu().numpy()
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # PIL releases the interpreter lock
                batch = torch.from_numpy(np.stack(list(pool.map(self.resize, images)))).permute(0, 3, 1, 2)
        padded = torch.cat([batch, batch[-1:].expand(BATCH - len(batch), -1, -1, -1)])
        return padded.to(self.device, torch.float32)

    def _head(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """probabilities(x, features): by the output layer alone if it is unambiguous and agrees with the network, else by a second pass."""

        def second_pass(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            return self.network.base(x, no_output_bias=True)

        weights = [value for value in self.network.base.state_dict().values() if value.ndim == 2 and value.shape[1] == DIM]
        if len(weights) != 1:
            return second_pass

        def one_pass(_: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
            return (features @ weights[0].T).softmax(1)

        probe = torch.linspace(0, 255, 2 * 3 * 299 * 299, device=self.device).view(2, 3, 299, 299)
        with exact():
            agree = torch.allclose(one_pass(probe, self.network(probe)).log(), second_pass(probe, probe).log(), atol=1e-2)
        return one_pass if agree else second_pass


if __name__ == "__main__":
    print(fetch())
