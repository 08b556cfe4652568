"""Fashion-MNIST (arXiv 1708.07747): from the data folder, from Debian's package, or downloaded. No torch."""

from __future__ import annotations

import gzip
import hashlib
import socket
import tempfile
import zlib
from pathlib import Path

import numpy as np

from harness.data.arrays import SplitArrays, digest
from harness.data.catalogue import DatasetInfo, info
from harness.errors import DamagedFile, MissingFile
from harness.locations import open_regular

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
MOST_BYTES = 64 << 20
"""The largest idx file has 47 MB."""
SHA256 = {  # of the uncompressed idx files: archives differ in their gzip headers
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def read_fashion(dataset: DatasetInfo, split: str, root: Path) -> SplitArrays:
    """The images of a split, padded from 28 to 32 with background, from below `root`, from Debian's package, or downloaded."""
    folders = (root / "fashion-mnist", root / "FashionMNIST" / "raw", root, DEBIAN)
    folder = next((folder for folder in folders if all(_file(folder, stem).is_file() for stem in SHA256)), None) or _download(root)
    stem = "t10k" if split == "heldout" else "train"
    count = dataset.heldout if split == "heldout" else dataset.train
    images, images_sha256 = _read_idx(_file(folder, f"{stem}-images-idx3-ubyte"), (count, 28, 28), dataset.fix)
    labels, labels_sha256 = _read_idx(_file(folder, f"{stem}-labels-idx1-ubyte"), (count,), dataset.fix)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))[:, None]
    return SplitArrays(padded, labels.astype(np.int64), digest(images_sha256, labels_sha256))


def _file(folder: Path, stem: str) -> Path:
    """The compressed file if it exists, else the plain one."""
    compressed = folder / f"{stem}.gz"
    return compressed if compressed.is_file() else folder / stem


def _read_idx(path: Path, shape: tuple[int, ...], fix: str) -> tuple[np.ndarray, str]:
    """The array in an idx file, uint8, and the SHA-256 of the file's bytes, uncompressed. Raises DamagedFile for any other file.

    No more than MOST_BYTES are unpacked or read.
    """
    fix = f"remove the file, then {fix}"
    try:
        with gzip.open(path) if path.suffix == ".gz" else open_regular(path) as file:
            raw = file.read(MOST_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedFile("damaged or unreadable file", where=path, found=error, expected="a complete idx file", nearest=fix) from None
    sha256, published = hashlib.sha256(raw).hexdigest(), SHA256[path.name.removesuffix(".gz")]
    if sha256 != published:
        content = f"{len(raw)} bytes, sha256 {sha256}"
        raise DamagedFile("checksum mismatch", where=path, found=content, expected=published, nearest=fix)
    return np.frombuffer(bytearray(raw), np.uint8, offset=4 + 4 * len(shape)).reshape(shape), sha256


def _download(root: Path) -> Path:
    """torchvision's download, which checks MD5 sums. Only complete files are moved into <root>/fashion-mnist."""
    from torchvision.datasets import FashionMNIST  # takes seconds to import

    target, timeout = root / "fashion-mnist", socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # torchvision sets none: a firewall that drops packets would block the run forever
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".fashion-mnist-") as scratch:
            FashionMNIST(scratch, train=False, download=True)
            for path in (Path(scratch) / "FashionMNIST" / "raw").glob("*.gz"):
                path.replace(target / path.name)
    except (OSError, RuntimeError) as error:
        cause = f"neither below {root} nor in {DEBIAN}; download: {' '.join(str(error).split())}"
        raise MissingFile("Fashion-MNIST is not available", where=target, found=cause, nearest=info("fashion-mnist").needs) from None
    finally:
        socket.setdefaulttimeout(timeout)
    return target
