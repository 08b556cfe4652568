"""Fashion-MNIST: its idx files, the folders they may be in, and its download."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.data import catalogue, datasets, fashion
from harness.errors import DamagedFile, MissingFile

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.fixture
def small_fashion(monkeypatch, tmp_path):
    """A Fashion-MNIST of 30 + 10 images, no Debian package, and a folder for its files; returns (files, arrays)."""
    draws = np.random.default_rng(0)
    arrays = {}
    for stem, rows in (("train", 30), ("t10k", 10)):
        arrays[f"{stem}-images-idx3-ubyte"] = draws.integers(0, 256, (rows, 28, 28), np.uint8)
        arrays[f"{stem}-labels-idx1-ubyte"] = draws.integers(0, 10, rows, np.uint8)
    files = {stem: idx(array) for stem, array in arrays.items()}
    monkeypatch.setitem(catalogue.REGISTRY, "fashion-mnist", replace(catalogue.REGISTRY["fashion-mnist"], train=30, heldout=10))
    monkeypatch.setattr(fashion, "SHA256", {stem: hashlib.sha256(raw).hexdigest() for stem, raw in files.items()})
    monkeypatch.setattr(fashion, "DEBIAN", tmp_path / "no-such-package")
    return files, arrays


@pytest.mark.parametrize("place", ["fashion-mnist", "FashionMNIST/raw", ".", "debian"])
@pytest.mark.parametrize("packed", [True, False])
def test_fashion_is_read_from_every_folder(tmp_path, monkeypatch, small_fashion, place, packed):
    files, arrays = small_fashion
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    for stem, raw in files.items():
        (folder / (f"{stem}.gz" if packed else stem)).write_bytes(gzip.compress(raw) if packed else raw)
    if place == "debian":
        monkeypatch.setattr(fashion, "DEBIAN", folder)
    for split, stem in (("train", "train"), ("heldout", "t10k")):
        data = datasets.load("fashion-mnist", split, root=tmp_path)
        assert data.shape == (1, 32, 32) and np.array_equal(data.rows[:, 0, 2:30, 2:30].numpy(), arrays[f"{stem}-images-idx3-ubyte"])
        assert data.rows.sum(dtype=torch.int64) == arrays[f"{stem}-images-idx3-ubyte"].sum(dtype=np.int64), "the border is not background"
        assert data.labels.tolist() == arrays[f"{stem}-labels-idx1-ubyte"].tolist()


@pytest.mark.parametrize("case", ["cut gzip", "cut idx", "floats", "flipped", "no gzip", "empty", "swapped"])
def test_a_damaged_idx_file_is_named(tmp_path, small_fashion, case):
    files, _ = small_fashion
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for stem, raw in files.items():
        (folder / f"{stem}.gz").write_bytes(gzip.compress(raw))
    stem = "train-images-idx3-ubyte"
    raw, path = files[stem], folder / f"{stem}.gz"
    flipped = bytearray(raw)
    flipped[500] ^= 1
    new = {
        "cut gzip": gzip.compress(raw)[:-900],
        "cut idx": gzip.compress(raw[:-1]),
        "floats": gzip.compress(raw[:2] + b"\x0d" + raw[3:]),
        "flipped": gzip.compress(bytes(flipped)),
        "no gzip": raw,
        "empty": b"",
        "swapped": gzip.compress(files["t10k-images-idx3-ubyte"]),
    }[case]
    path.write_bytes(new)
    with pytest.raises(DamagedFile) as error:
        datasets.load("fashion-mnist", root=tmp_path)
    assert error.value.details["where"] == str(path) and "dataset-fashion-mnist" in error.value.details["nearest"]


def test_without_a_network_all_three_ways_are_listed(tmp_path, monkeypatch, small_fashion):
    from torchvision.datasets import FashionMNIST

    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])  # no server listens there
    with pytest.raises(MissingFile, match="Fashion-MNIST") as error:
        datasets.load("fashion-mnist", root=tmp_path)
    for way in ("$HARNESS_DATA/fashion-mnist", "apt-get install dataset-fashion-mnist", "download"):
        assert way in error.value.details["nearest"]
    assert not list(tmp_path.glob(".fashion-mnist-*"))


def test_torchvisions_download_from_a_server_of_this_test(tmp_path, monkeypatch, small_fashion):
    from torchvision.datasets import FashionMNIST

    files, arrays = small_fashion
    served = {f"/{stem}.gz": gzip.compress(raw) for stem, raw in files.items()}

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(served[self.path])

        do_HEAD = do_GET

        def log_message(self, *args):
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        sums = [(path[1:], hashlib.md5(raw).hexdigest()) for path, raw in served.items()]
        monkeypatch.setattr(FashionMNIST, "resources", [(sums[0][0], "0" * 32), *sums[1:]])
        with pytest.raises(MissingFile, match="Fashion-MNIST"):
            datasets.load("fashion-mnist", root=tmp_path / "bad")
        monkeypatch.setattr(FashionMNIST, "resources", sums)
        data = datasets.load("fashion-mnist", root=tmp_path / "good")
        server.shutdown()
    assert data.labels.tolist() == arrays["train-labels-idx1-ubyte"].tolist()
    assert len(datasets.load("fashion-mnist", "heldout", root=tmp_path / "good")) == 10, "the second time it reads the downloaded files"


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist(tmp_path):
    train, held = (datasets.load("fashion-mnist", split, root=tmp_path) for split in ("train", "heldout"))
    assert (len(train), len(held)) == (60_000, 10_000) and torch.bincount(train.labels).tolist() == [6000] * 10
    assert torch.bincount(held.labels).tolist() == [1000] * 10
    inner = train.rows[:, 0, 2:30, 2:30].double() / 255  # published mean and standard deviation: 0.2860, 0.3530
    assert inner.mean().item() == pytest.approx(0.2860, abs=5e-5) and inner.std().item() == pytest.approx(0.3530, abs=5e-5)
    assert train.labels[:5].tolist() == [9, 0, 0, 3, 0]
    assert torch.bincount(datasets.load("fashion-mnist", limit=1000, root=tmp_path).labels).tolist() == [100] * 10
