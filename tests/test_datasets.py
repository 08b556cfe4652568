"""Data sets: their content, the errors for damaged ones, and that a large one is never copied."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from harness.core.randomness import generator
from harness.data import catalogue, datasets
from harness.data.arrays import checksum, sampled_checksum, split_files
from harness.errors import DamagedFile, HarnessError, MissingFile, UnknownName
from harness.locations import data_root

ROOT = Path(__file__).resolve().parent.parent
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def put(root: Path, name: str, splits: dict[str, np.ndarray], labels: dict[str, np.ndarray] | None = None) -> Path:
    """A prepared set, written with NumPy only."""
    dataset, folder, entries = catalogue.info(name), root / name, {}
    folder.mkdir(parents=True)
    for split, images in splits.items():
        np.save(folder / f"{split}.npy", images)
        if labels:
            np.save(folder / f"{split}_labels.npy", labels[split])
        paths = [folder / file for file in split_files(dataset, split, len(images))]
        files = {path.name: {"bytes": path.stat().st_size, "sha256": checksum(path), "sampled": sampled_checksum(path)} for path in paths}
        entries[split] = {"count": len(images), "files": files}
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "name": name, "shape": list(dataset.shape), "splits": entries}))
    return folder


def cifar(root: Path, train=60, heldout=20) -> Path:
    draws = np.random.default_rng(0)
    splits = {split: draws.integers(0, 256, (rows, 3, 32, 32), np.uint8) for split, rows in (("train", train), ("heldout", heldout))}
    return put(root, "cifar10", splits, {split: draws.integers(0, 10, len(images)) for split, images in splits.items()})


# -- digits


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    known = load_digits()
    data = datasets.load("digits", "all")
    assert len(data) == 1797 and data.shape == (1, 8, 8) and data.dim == 64 and data.classes == 10
    assert data.rows.dtype == torch.uint8 and data.labels.tolist() == known.target.tolist()
    levels = torch.from_numpy(known.images).float()[:, None]
    assert (data.rows.float() - levels * 255 / 16).abs().max() <= 0.5
    rows = data.batch(range(1797))
    assert rows.dtype == torch.float32 and rows.min() == -1 and rows.max() == 1
    # transport cost of the independent coupling, E|x - z|^2 = E|x|^2 + d: 109.9 on these images
    exact = (levels.double() / 8 - 1).square().sum((1, 2, 3)).mean().item() + 64
    assert exact == pytest.approx(109.91, abs=0.01) and rows.square().sum((1, 2, 3)).mean().item() + 64 == pytest.approx(exact, abs=0.05)


def test_digits_splits_are_fixed_disjoint_and_stratified():
    train, held, complete = (datasets.load("digits", split) for split in ("train", "heldout", "all"))
    assert (len(train), len(held)) == (1437, 360)
    seen = sorted(row.numpy().tobytes() for part in (train, held) for row in part.rows)
    assert seen == sorted(row.numpy().tobytes() for row in complete.rows)
    share = torch.bincount(complete.labels) * 360 / 1797
    assert (torch.bincount(held.labels) - share).abs().max() <= 1
    # the same rows on every machine and version: results of different machines are compared
    assert hashlib.sha256(held.rows.numpy().tobytes()).hexdigest() == "373af90736249772fccc82e26a105f2974b96f7b57645d55b7c2b32a632b1b60"
    assert train.sha256 == datasets.load("digits").sha256 != held.sha256


def test_other_digits_are_refused(monkeypatch):
    monkeypatch.setattr(datasets, "_DIGITS_SHA256", "0" * 64)
    with pytest.raises(HarnessError, match="1,797"):
        datasets.load("digits")


# -- toy sets


def test_two_gaussians_are_the_papers():
    points, mode = datasets.sample_toy("two-gaussians", 20_000, generator(0, "measure"))
    centres = torch.stack([torch.zeros(20_000), mode - 0.5], 1)
    # squared distances over the variance are chi-squared of two degrees: mean 2, variance 4
    ratio = ((points - centres) / 0.01).square().sum(1)
    assert ratio.mean().item() == pytest.approx(2, abs=4 * 2 / 20_000**0.5) and ratio.max() < chi2.isf(1e-9, 2)
    assert abs(mode.float().mean().item() - 0.5) < 4 * 0.5 / 20_000**0.5


def test_eight_gaussians_are_on_a_circle_with_the_spread_of_sigma_data():
    points, mode = datasets.sample_toy("eight-gaussians", 40_000, generator(1, "measure"))
    assert torch.bincount(mode, minlength=8).min() > 4600
    for k in range(8):
        mean = points[mode == k].double().mean(0)
        expected = 0.7 * torch.tensor([np.cos(k * np.pi / 4), np.sin(k * np.pi / 4)])
        assert (mean - expected).abs().max() < 5 * 0.03 / 4600**0.5
    assert points.std(0).numpy() == pytest.approx([0.5, 0.5], abs=0.01)


def test_two_moons_are_scikit_learns():
    from scipy.stats import ks_2samp
    from sklearn.datasets import make_moons

    points, mode = datasets.sample_toy("two-moons", 20_000, generator(2, "measure"))
    known, label = make_moons(20_000, noise=0.05, random_state=0)
    known = 0.6 * (known - [0.5, 0.25])
    for k in (0, 1):
        for axis in (0, 1):  # scikit-learn spaces its angles evenly, so the test is a little conservative
            assert ks_2samp(points[mode == k, axis].numpy(), known[label == k, axis]).pvalue > 1e-3


@pytest.mark.parametrize("name", catalogue.TOYS)
def test_toy_sets_are_fixed_finite_and_sized(name):
    train, again, held = datasets.load(name), datasets.load(name), datasets.load(name, "heldout")
    assert train.rows.dtype == torch.float32 and train.rows.shape == (catalogue.info(name).train, 2)
    assert not train.is_images and train.shape == (2,)
    assert torch.equal(train.rows, again.rows) and train.sha256 == again.sha256 != held.sha256
    assert not (train.rows[:, None, 0] == held.rows[None, :, 0]).logical_and(train.rows[:, None, 1] == held.rows[None, :, 1]).any()
    assert torch.equal(train.batch([3, 1]), train.rows[[3, 1]])
    assert int(train.labels.max()) + 1 == train.classes
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    datasets.load(name)
    assert torch.equal(torch.rand(1), expected), "the global generator was touched"


# -- limits


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.data())
def test_balanced_order_is_a_nested_balanced_permutation(labels, data):
    labels = np.array(labels)
    order = datasets.balanced_order(labels)
    assert sorted(order.tolist()) == list(range(len(labels)))
    n = data.draw(st.integers(1, len(labels)))
    counts, available = np.bincount(labels[order[:n]], minlength=7), np.bincount(labels, minlength=7)
    short = counts < available  # a class that still has rows has as many as any other, to within one
    assert all(counts.max() - count <= 1 for count in counts[short])


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["digits", "two-moons"]), st.integers(1, 1400), st.integers(1, 1400))
def test_limits_are_nested_and_balanced(name, first, second):
    small, large = (datasets.load(name, limit=n) for n in sorted((first, second)))
    assert len(small) == min(first, second) == len(small.labels)
    rows = [{row.numpy().tobytes() for row in part.rows} for part in (small, large)]
    assert rows[0] <= rows[1]
    if len(small) < 1000:
        counts = torch.bincount(small.labels, minlength=small.classes)
        assert counts.max() - counts.min() <= 1
    assert (small.sha256 == large.sha256) == (first == second)


@pytest.mark.parametrize("limit", [0, -1, 1438])
def test_a_limit_out_of_range(limit):
    with pytest.raises(HarnessError) as error:
        datasets.load("digits", limit=limit)
    assert error.value.details["expected"] == "1 to 1437" and error.value.details["found"] == str(limit)


def test_a_limit_of_all_rows_changes_nothing():
    assert datasets.load("digits", limit=1437).sha256 == datasets.load("digits").sha256


# -- prepared sets


def test_a_prepared_set_loads(tmp_path):
    folder = cifar(tmp_path)
    train, held = (datasets.load("cifar10", split, root=tmp_path) for split in ("train", "heldout"))
    stored = [np.load(folder / f"{split}.npy") for split in ("train", "heldout")]
    assert all(np.array_equal(split.rows.numpy(), rows) for split, rows in zip((train, held), stored, strict=True))
    labels = [np.load(folder / f"{split}_labels.npy") for split in ("train", "heldout")]
    assert train.labels.tolist() == labels[0].tolist() and held.labels.tolist() == labels[1].tolist()
    picked = train.batch(torch.tensor([5, 0, 5]))
    assert np.array_equal(picked.numpy(), (stored[0][[5, 0, 5]] / np.float32(127.5) - 1).astype(np.float32))
    assert held.shape == (3, 32, 32) and held.dim == 3072 and train.sha256 != held.sha256
    assert datasets.verify("cifar10", tmp_path) == "cifar10: 60 train, 20 heldout"
    limited = datasets.load("cifar10", limit=37, root=tmp_path)
    rows = {row.tobytes(): int(label) for row, label in zip(stored[0], labels[0], strict=True)}
    assert [rows[row.numpy().tobytes()] for row in limited.rows] == limited.labels.tolist() and len(limited) == 37


def test_batches_never_change_the_stored_images(tmp_path):
    folder = cifar(tmp_path)
    before = (folder / "train.npy").read_bytes()
    data = datasets.load("cifar10", root=tmp_path)
    data.batch([0, 1]).zero_()
    assert (folder / "train.npy").read_bytes() == before and data.rows[:2].numpy().tobytes() in before


def test_the_root_comes_from_the_environment(tmp_path, monkeypatch):
    cifar(tmp_path)
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    assert len(datasets.load("cifar10")) == 60
    monkeypatch.delenv("HARNESS_DATA")
    monkeypatch.chdir(ROOT)
    assert data_root() == ROOT / "data"


def flip(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


BROKEN = {
    "a flipped pixel": (lambda f: flip(f / "train.npy", 50_000), DamagedFile, "train.npy"),
    "a flipped header": (lambda f: flip(f / "train.npy", 20), DamagedFile, "train.npy"),
    "a flipped label": (lambda f: flip(f / "train_labels.npy", 300), DamagedFile, "train_labels.npy"),
    "truncated images": (lambda f: os.truncate(f / "train.npy", 9000), DamagedFile, "train.npy"),
    "longer images": (lambda f: os.truncate(f / "train.npy", 10**6), DamagedFile, "train.npy"),
    "no images": (lambda f: (f / "train.npy").unlink(), MissingFile, "train.npy"),
    "no labels": (lambda f: (f / "train_labels.npy").unlink(), MissingFile, "train_labels.npy"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), MissingFile, ""),
    "an empty manifest": (lambda f: (f / "manifest.json").write_text(""), DamagedFile, "manifest.json"),
    "half a manifest": (lambda f: os.truncate(f / "manifest.json", 200), DamagedFile, "manifest.json"),
    "no splits": (lambda f: (f / "manifest.json").write_text('{"format": 1, "name": "cifar10"}'), DamagedFile, "manifest.json"),
    "a list": (lambda f: (f / "manifest.json").write_text("[1]"), DamagedFile, "manifest.json"),
    "another format": (lambda f: edit(f, "format", 2), DamagedFile, "manifest.json"),
    "another shape": (lambda f: edit(f, "shape", [3, 64, 64]), DamagedFile, "manifest.json"),
    "another name": (lambda f: edit(f, "name", "celeba64"), DamagedFile, "manifest.json"),
}


def edit(folder, key, value):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, key: value}))


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_set_is_reported_with_its_file_and_how_to_fix_it(tmp_path, case):
    spoil, kind, file = BROKEN[case]
    spoil(cifar(tmp_path))
    for check in (lambda: datasets.load("cifar10", root=tmp_path), lambda: datasets.verify("cifar10", tmp_path, full=False)):
        with pytest.raises(kind) as error:
            check()
        assert error.value.details["where"] == str(tmp_path / "cifar10" / file) and error.value.details["found"]
        assert error.value.details["nearest"] == "harness prepare cifar10 --from /path/to/cifar-10-python.tar.gz"


@pytest.mark.parametrize(
    "images, labels, what",
    [
        (np.zeros((4, 3, 32, 31), np.uint8), np.zeros(4, np.int64), "wrong array"),
        (np.zeros((4, 3, 32, 32), np.float32), np.zeros(4, np.int64), "wrong array"),
        (np.zeros((4, 32, 32, 3), np.uint8), np.zeros(4, np.int64), "wrong array"),
        (np.zeros((4, 3, 32, 32), np.uint8), np.zeros(5, np.int64), "wrong array"),
        (np.zeros((4, 3, 32, 32), np.uint8), np.full(4, 10), "label out of range"),
        (np.zeros((4, 3, 32, 32), np.uint8), np.full(4, -1), "label out of range"),
    ],
)
def test_arrays_of_the_wrong_size_type_or_labels(tmp_path, images, labels, what):
    put(tmp_path, "cifar10", {"train": images}, {"train": labels})
    with pytest.raises(HarnessError, match=what):
        datasets.load("cifar10", root=tmp_path)


def test_a_pickle_in_place_of_an_array_is_not_opened(tmp_path):
    put(tmp_path, "cifar10", {"train": np.array([{"a": 1}] * 4, dtype=object)}, {"train": np.zeros(4, np.int64)})
    with pytest.raises(DamagedFile, match=r"train\.npy"):
        datasets.load("cifar10", root=tmp_path)


def test_a_large_file_is_sampled_at_load_and_hashed_by_verify(tmp_path, monkeypatch):
    from harness.data import arrays

    monkeypatch.setattr(arrays, "HASHED_BYTES", 1 << 20)
    put(tmp_path, "celeba64", {"train": np.zeros((3000, 3, 64, 64), np.uint8)})
    file = tmp_path / "celeba64" / "train.npy"
    size, blocks, block = file.stat().st_size, arrays.BLOCKS, arrays.BLOCK
    starts = [k * (size - block) // (blocks - 1) for k in range(blocks)]
    between = next(a + block for a, b in pairwise(starts) if a + block < b)
    flip(file, between)  # in no sampled block: load cannot see it, verify must
    assert len(datasets.load("celeba64", root=tmp_path)) == 3000 and datasets.verify("celeba64", tmp_path, full=False)
    with pytest.raises(DamagedFile, match="celeba64"):
        datasets.verify("celeba64", tmp_path)
    flip(file, between)
    for at in (starts[100] + 5, 70, size - 1):
        flip(file, at)
        with pytest.raises(DamagedFile, match="celeba64"):
            datasets.load("celeba64", root=tmp_path)
        flip(file, at)
    assert datasets.verify("celeba64", tmp_path) == "celeba64: 3,000 train"


@pytest.mark.parametrize("name", [name for name, dataset in catalogue.REGISTRY.items() if dataset.source])
def test_a_missing_set_is_reported_with_how_to_prepare_it(tmp_path, name):
    with pytest.raises(MissingFile, match=name) as error:
        datasets.load(name, root=tmp_path)
    assert error.value.details["nearest"].startswith(f"harness prepare {name} --from ")
    (tmp_path / f"{name}.partial").mkdir()
    with pytest.raises(HarnessError) as error:
        datasets.verify(name, tmp_path)
    assert "unfinished" in error.value.details["found"]


def test_unknown_names_and_splits():
    with pytest.raises(UnknownName) as error:
        datasets.load("cifar-10")
    assert error.value.details["nearest"] == "cifar10"
    with pytest.raises(UnknownName, match="heldout"):
        datasets.load("digits", "test")
    with pytest.raises(UnknownName, match="two-moons"):
        datasets.sample_toy("digits", 5, generator(0, "measure"))


def test_a_large_set_is_mapped_and_never_copied(tmp_path):
    """200 MB of pixels in a fresh process: no copy on the heap, hardly any memory; a batch needs memory for its own rows only."""
    rows = 200 * 2**20 // 12288
    images = np.lib.format.open_memmap(tmp_path / "fake.npy", "w+", np.uint8, (rows, 3, 64, 64))
    images[::97] = 7
    put(tmp_path, "celeba64", {"train": images})
    code = f"""
        import resource, tracemalloc
        import torch
        from harness.data import datasets

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        torch.zeros(1000).add(1)
        before = peak()
        tracemalloc.start()
        data = datasets.load("celeba64", root={str(tmp_path)!r})
        loaded, heap = peak(), tracemalloc.get_traced_memory()[1] / 2**20
        for k in range(8):
            batch = data.batch(torch.arange(k, len(data), len(data) // 64))
        print(loaded - before, heap, peak() - before, len(data), batch.numel() * 4 / 2**20)
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, check=True)
    loaded, heap, used, count, batch = map(float, done.stdout.split())
    assert count == rows and loaded < 40 and heap < 10 and used < 60 + 4 * batch, done.stdout


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_set_on_the_gpu_is_the_same(tmp_path, monkeypatch):
    cifar(tmp_path)
    monkeypatch.setattr(datasets, "_PIECE", 10_000)
    on_cpu, on_gpu = (datasets.load("cifar10", root=tmp_path, device=device) for device in ("cpu", "cuda"))
    assert on_gpu.rows.is_cuda and torch.equal(on_cpu.rows, on_gpu.rows.cpu()) and on_cpu.sha256 == on_gpu.sha256
    assert torch.equal(on_cpu.batch([3, 50]), on_gpu.batch([3, 50]).cpu()) and on_gpu.labels.is_cuda


@pytest.mark.parametrize("piece", [1, 5000, 1 << 20])
def test_rows_copied_in_pieces_are_the_same(tmp_path, monkeypatch, piece):
    folder = cifar(tmp_path)
    monkeypatch.setattr(datasets, "_PIECE", piece)
    some = datasets.load("cifar10", limit=50, root=tmp_path)
    chosen = np.sort(datasets.balanced_order(np.load(folder / "train_labels.npy"))[:50])
    assert np.array_equal(some.rows.numpy(), np.load(folder / "train.npy")[chosen])
